//! Lies that no field of a header can tell: cut, overwritten and padded frames.

/// The first `length` bytes of a frame.
#[must_use]
pub fn cut(frame: &[u8], length: usize) -> Vec<u8> {
    assert!(length < frame.len(), "a cut at {length} leaves a frame of {} whole", frame.len());
    frame[..length].to_vec()
}

/// A frame with other bytes at `offset`.
#[must_use]
pub fn overwritten(frame: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

/// A frame with `count` bytes behind its end, as after a short frame's padding.
#[must_use]
pub fn padded(frame: &[u8], count: usize) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.resize(frame.len() + count, 0xee);
    frame
}
