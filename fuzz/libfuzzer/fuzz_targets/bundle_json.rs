//! libFuzzer front end of the target `bundle_json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (strait_fuzz::target("bundle_json").expect("the table has this target").run)(data);
});
