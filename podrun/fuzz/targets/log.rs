//! Log files, as they are or as records cut anywhere: see `podrun_fuzz::log`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podrun_fuzz::log::try_it(input));
