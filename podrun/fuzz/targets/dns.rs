//! What a pod sends to its name server: see `podrun_fuzz::dns`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| podrun_fuzz::dns::try_it(input));
