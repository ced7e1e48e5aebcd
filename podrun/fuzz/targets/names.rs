//! Everything that is parsed from one word: see `podrun_fuzz::names`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podrun_fuzz::names::try_it(input));
