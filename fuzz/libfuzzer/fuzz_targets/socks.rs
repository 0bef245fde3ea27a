//! libFuzzer front end of the target `socks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (strait_fuzz::target("socks").expect("the table has this target").run)(data);
});
