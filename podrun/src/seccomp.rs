//! seccomp(2) profiles of config.json, compiled to classic BPF.
