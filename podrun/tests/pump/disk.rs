//! Full disks and strange files.
