//! libFuzzer front end of the target `hello`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (strait_fuzz::target("hello").expect("the table has this target").run)(data);
});
