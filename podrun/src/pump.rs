//! The log pump.
