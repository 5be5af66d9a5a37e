#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stillcast::fuzz::roundtrip_h264(data));
