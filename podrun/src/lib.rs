//! podrun: a minimal pod sandbox runtime. `docs/architecture.md` has the floors that these modules stand on.

#![deny(unsafe_code)]

// Floor 0
pub mod pause;
#[allow(unsafe_code)]
pub mod sys;
// Floor 1
pub mod error;
// Floor 2
pub mod id;
pub mod roots;
// Floor 5
pub mod cgroup;
pub mod seccomp;
// Floor 6
pub mod net;
// Floor 7
pub mod pump;
