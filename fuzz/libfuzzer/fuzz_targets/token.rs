//! libFuzzer front end of the target `token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (strait_fuzz::target("token").expect("the table has this target").run)(data);
});
