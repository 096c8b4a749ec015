//! Frames that start at an IP header, judged and parsed a second time.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ollama_guard_common::Start;
use ollama_guard_fuzz::second_opinion;

fuzz_target!(|frame: &[u8]| {
    if let Err(disagreement) = second_opinion::check(frame, Start::Network) {
        panic!("{disagreement}");
    }
});
