//! Where the headers of a frame begin and end, by the frame's own fields.

use std::collections::BTreeSet;

use ollama_guard_common::Start;

/// The offsets at which a header of the frame begins or ends, up to the frame's end. Of a frame
/// that lies or is cut: as far as its fields lead.
#[must_use]
pub fn borders(frame: &[u8], start: Start) -> BTreeSet<usize> {
    let mut walk = Walk { frame, found: BTreeSet::from([0]) };
    match start {
        Start::Link => walk.ethertype(12),
        Start::Packet => walk.ip(0),
        Start::Network if walk.is_ip(0) => walk.ip(0),
        // Without an Ethernet header, a frame may begin behind the TPID of a tag.
        Start::Network => walk.ethertype(2),
    }
    walk.found.retain(|&border| border < frame.len());
    walk.found
}

struct Walk<'a> {
    frame: &'a [u8],
    found: BTreeSet<usize>,
}

impl Walk<'_> {
    fn byte(&self, at: usize) -> usize {
        self.frame.get(at).copied().unwrap_or_default().into()
    }

    fn is_ip(&self, at: usize) -> bool {
        matches!(self.byte(at) >> 4, 4 | 6)
    }

    /// An EtherType that ends a header, and what follows.
    fn ethertype(&mut self, mut at: usize) {
        while let (0x81, 0x00) | (0x88, 0xa8) = (self.byte(at), self.byte(at + 1)) {
            self.found.extend([at, at + 2]);
            at += 4;
        }
        self.found.extend([at, at + 2]);
        if self.is_ip(at + 2) {
            self.ip(at + 2);
        }
    }

    fn ip(&mut self, header: usize) {
        self.found.insert(header);
        if self.byte(header) >> 4 == 4 {
            let end = header + (self.byte(header) & 0x0f) * 4;
            self.found.extend([header + 20, end]);
            self.transport(self.byte(header + 9), end);
            return;
        }
        let (mut next, mut at) = (self.byte(header + 6), header + 40);
        while let 0 | 43 | 44 | 51 | 60 = next
            && at < self.frame.len()
        {
            self.found.insert(at);
            let length = match next {
                44 => 8,
                51 => (self.byte(at + 1) + 2) * 4,
                _ => (self.byte(at + 1) + 1) * 8,
            };
            (next, at) = (self.byte(at), at + length);
        }
        self.transport(next, at);
    }

    /// The ports end after four bytes in every protocol.
    fn transport(&mut self, protocol: usize, at: usize) {
        let end = match protocol {
            6 => at + (self.byte(at + 12) >> 4) * 4,
            17 | 136 => at + 8,
            _ => at + 12,
        };
        self.found.extend([at, at + 4, end]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        packet::{ethernet, ipv4, ipv6, tcp},
        policy::{SERVER4, SERVER6, STRANGER4, STRANGER6},
    };

    fn found(frame: &[u8], start: Start) -> Vec<usize> {
        borders(frame, start).into_iter().collect()
    }

    #[test]
    fn every_header_of_an_ipv4_frame_is_found() {
        let packet = ipv4(STRANGER4, SERVER4).no_operations(8).carries(&tcp(40_000, 11_434));
        let frame = ethernet().priority_tag().carries_ip(&packet);
        // The tag, its EtherType, the header, its options, the ports; the segment ends the frame.
        assert_eq!(found(&frame, Start::Link), [0, 12, 14, 16, 18, 38, 46, 50]);
        assert_eq!(found(&packet, Start::Network), [0, 20, 28, 32]);
    }

    #[test]
    fn every_header_of_an_ipv6_frame_is_found() {
        let packet = ipv6(STRANGER6, SERVER6)
            .hop_by_hop(16)
            .atomic_fragment()
            .destination_options(8)
            .carries(&tcp(40_000, 11_434));
        assert_eq!(found(&packet, Start::Network), [0, 40, 56, 64, 72, 76]);
    }

    #[test]
    fn a_lie_leads_no_further_than_the_frame() {
        for length in 0..20 {
            let frame = vec![0x6f; length];
            assert!(borders(&frame, Start::Network).iter().all(|&border| border < length));
        }
    }
}
