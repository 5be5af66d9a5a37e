#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stillcast::fuzz::receiver(data));
