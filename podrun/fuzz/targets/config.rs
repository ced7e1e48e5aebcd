//! Documents, as JSON or as changes to a good one: see `podrun_fuzz::config`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podrun_fuzz::config::try_it(input));
