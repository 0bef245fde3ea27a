//! libFuzzer front end of the target `stream_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (strait_fuzz::target("stream_header").expect("the table has this target").run)(data);
});
