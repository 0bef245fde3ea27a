//! libFuzzer front end of the target `dns`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (strait_fuzz::target("dns").expect("the table has this target").run)(data);
});
