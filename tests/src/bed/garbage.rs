//! A program of somebody else that writes into our ring of events: records of any size, full of
//! bytes that mean nothing.

use std::{
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use anyhow::{Context, Result};
use aya::{
    Ebpf, TestRun, TestRunOptions,
    maps::{MapData, MapInfo},
    programs::Xdp,
};

use super::foreign::{NAME, XDP, XDP_PASS, object_file, returning};

/// What fits the stack of a program.
const MOST_BYTES: u16 = 512;
/// `bpf_ringbuf_output` (include/uapi/linux/bpf.h).
const RINGBUF_OUTPUT: u8 = 130;

/// Writes `count` records of `size` bytes, each of this byte, into a pinned ring.
///
/// # Errors
///
/// If there is no such ring, or the kernel refuses the program.
pub fn write_garbage(ring: &Path, size: u16, byte: u8, count: u32) -> Result<()> {
    MapInfo::from_pin(ring).with_context(|| format!("looking at {}", ring.display()))?;
    let map = MapData::from_pin(ring).with_context(|| format!("opening {}", ring.display()))?;
    let text = program(map.fd().as_fd().as_raw_fd(), size, byte);
    let mut object = Ebpf::load(&object_file(XDP, text)).context("loading a writer of garbage")?;
    let program: &mut Xdp =
        object.program_mut(NAME).context("the program is not in the object")?.try_into()?;
    program.load()?;
    let frame = [0; 64];
    for _ in 0..count {
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        program.test_run(options)?;
    }
    Ok(())
}

/// Fills the stack, and hands a part of it to the ring.
fn program(ring: i32, size: u16, byte: u8) -> Vec<u8> {
    let [size_low, size_high] = size.to_le_bytes();
    let word = i16::try_from(MOST_BYTES).unwrap_or(i16::MAX);
    let mut text = Vec::new();
    for offset in (-word..0).step_by(8) {
        // *(u64 *)(r10 + offset) = byte, sign-extended
        let [low, high] = offset.to_le_bytes();
        text.extend([0x7a, 10, low, high, byte, byte, byte, byte]);
    }
    // r1 = ring, by its descriptor (BPF_PSEUDO_MAP_FD)
    let [a, b, c, d] = ring.to_le_bytes();
    text.extend([0x18, 0x11, 0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0]);
    // r2 = r10 - 512; r3 = size; r4 = 0
    let [low, high] = (-word).to_le_bytes();
    text.extend([0xbf, 0xa2, 0, 0, 0, 0, 0, 0]);
    text.extend([0x07, 0x02, 0, 0, low, high, 0xff, 0xff]);
    text.extend([0xb7, 0x03, 0, 0, size_low, size_high, 0, 0]);
    text.extend([0xb7, 0x04, 0, 0, 0, 0, 0, 0]);
    text.extend([0x85, 0, 0, 0, RINGBUF_OUTPUT, 0, 0, 0]);
    text.extend(returning(XDP_PASS));
    text
}
