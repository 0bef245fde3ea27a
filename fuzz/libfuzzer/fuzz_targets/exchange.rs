//! libFuzzer front end of the target `exchange`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (strait_fuzz::target("exchange").expect("the table has this target").run)(data);
});
