#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ctseg_fuzz::limited(
    ctseg_fuzz::readers::mlflow_reply,
    bytes
));
