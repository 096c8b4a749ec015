//! What the two sides of the benchmark agree on. No part of the guard.

use bytemuck::{Pod, Zeroable};

/// Different sources of a run: enough that a large table does not stay in the caches because
/// the same few places of it are asked for. A power of two.
pub const SOURCES: usize = 1 << 17;

/// Prefixes that the LPM tries to compare with can hold.
pub const MAX_PREFIXES: usize = 1 << 20;

/// A source address, and what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Source {
    /// In network byte order; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// The IPv4 header's checksum with this source, in network byte order.
    pub checksum: [u8; 2],
    /// Always 0.
    pub padding: [u8; 6],
}
