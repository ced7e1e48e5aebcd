//! Profiles, as JSON or as dice: see `podrun_fuzz::seccomp`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podrun_fuzz::seccomp::try_it(input));
