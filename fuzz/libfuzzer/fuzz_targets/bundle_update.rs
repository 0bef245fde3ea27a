//! libFuzzer front end of the target `bundle_update`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (strait_fuzz::target("bundle_update").expect("the table has this target").run)(data);
});
