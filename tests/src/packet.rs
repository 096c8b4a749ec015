//! Packets, written as sentences.
//!
//! ```
//! use ollama_guard_tests::packet::{ethernet, ipv4, tcp};
//!
//! let source = [198, 51, 100, 7].into();
//! let server = [192, 0, 2, 1].into();
//! let frame = ethernet()
//!     .priority_tag()
//!     .carries_ip(&ipv4(source, server).no_operations(4).carries(&tcp(40_000, 11_434)));
//! assert_eq!(frame.len(), 14 + 4 + 24 + 20);
//! ```
//!
//! Checksums and lengths are right unless a lie is asked for, so that a real stack takes what it
//! would take from a real sender.

mod borders;
mod bytes;
mod checksum;
mod ethernet;
mod ipv4;
mod ipv6;
mod read;
mod segment;

pub use borders::borders;
pub use bytes::{cut, overwritten, padded};
pub use ethernet::{Ethernet, Tpid, ethernet};
pub use ipv4::{Ipv4, ipv4};
pub use ipv6::{Ipv6, ipv6};
pub use read::{Ends, ends};
pub use segment::{
    ACK, FIN, PSH, RST, SYN, Segment, dccp, icmp, icmpv6, other, sctp, tcp, udp, udp_lite,
};
