#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code)] // each target runs one check
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::web_config(bytes));
