//! bpf(2): loading and attaching device programs.
