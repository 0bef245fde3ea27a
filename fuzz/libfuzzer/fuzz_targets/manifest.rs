//! libFuzzer front end of the target `manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (strait_fuzz::target("manifest").expect("the table has this target").run)(data);
});
