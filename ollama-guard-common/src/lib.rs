//! The packet decision of `ollama-guard`, and the contract between its kernel and user sides.
//!
//! This crate is the whole answer to "may this packet pass?": [`judge()`] takes a [`Frame`] (bytes
//! that may be read at offsets), where the frame starts, and a [`Policy`] (which ports are
//! guarded, who may reach them), and returns a [`Judgement`]. It is pure and total: it returns
//! for any bytes, never panics, never allocates, reads no clock and keeps no state. The kernel
//! program, the host tests and the fuzz targets run the same code; only the two traits differ.
//!
//! # The rule: fail closed, narrowly
//!
//! For a source that is not allowed, a packet for a guarded port is dropped, and so is a packet
//! that *could* be for a guarded port and that cannot be read to the end. Everything else passes
//! untouched, and nothing unreadable is ever dropped for an allowed source whose address could be
//! read. The reasons are a closed, numbered list: [`Reason`].
//!
//! # What is deliberately not here
//!
//! * Length fields and checksums: merged and BIG TCP packets in generic XDP carry lengths of 0, so
//!   they never decide a verdict. The one exception is an IPv6 first fragment, which is never a
//!   merged packet: what stands behind its payload's end the kernel takes from another fragment.
//! * Destination addresses (but for loopback), MAC addresses and VLAN numbers: the policy does not
//!   depend on them, so lying about them is no use.
//! * Inner headers of tunnels: a tunnel's device is a door of its own.
//! * Connection state: every segment is judged by itself.
//!
//! # How the verifier shaped it
//!
//! The kernel's verifier follows packet bounds only through comparisons of packet pointers, which
//! is why a frame is a trait with one fixed-size read and not a slice. Everything on the path is
//! `#[inline(always)]`, loops have named limits, and nothing large lives on the 512-byte stack.

#![no_std]
#![forbid(unsafe_code)]

pub mod abi;
pub mod bench;
pub mod flow;
pub mod frame;
pub mod judge;
pub mod parse;
pub mod traits;
pub mod trie;
pub mod verdict;

pub use flow::{Flow, Network, Protocol, Source};
pub use frame::Frame;
pub use judge::{
    Judgement, Policy, Ruling, Standing, Target, Terms, Wanted, decide, judge, judge_carefully,
    judge_plainly, locate_ours,
};
pub use parse::{Located, Outcome, Start, locate};
pub use verdict::{Mode, Reason, Scope, Verdict};
