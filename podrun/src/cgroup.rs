//! cgroups(7): one directory in each of the kernel's trees that counts and limits a set of processes.
