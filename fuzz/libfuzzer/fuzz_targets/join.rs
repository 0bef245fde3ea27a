//! libFuzzer front end of the target `join`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (strait_fuzz::target("join").expect("the table has this target").run)(data);
});
