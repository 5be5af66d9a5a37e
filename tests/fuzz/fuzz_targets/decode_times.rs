#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stillcast::fuzz::decode_times(data));
