//! seccomp(2): loading a filter.
