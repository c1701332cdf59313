//! Arbitrary bytes from a peer: items or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_engine::frame::FrameReader;

fuzz_target!(|data: &[u8]| {
    let Ok(mut frame) = FrameReader::new(data.to_vec().into()) else {
        return;
    };
    while let Ok(Some(_)) = frame.next_item() {}
});
