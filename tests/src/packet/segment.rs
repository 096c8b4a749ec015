//! What an IP header carries.

use std::net::IpAddr;

use super::checksum::{crc32c, internet, pseudo_header};

/// TCP flag: no more data from the sender.
pub const FIN: u8 = 0x01;
/// TCP flag: begins a connection.
pub const SYN: u8 = 0x02;
/// TCP flag: aborts a connection.
pub const RST: u8 = 0x04;
/// TCP flag: hand over to the reader at once.
pub const PSH: u8 = 0x08;
/// TCP flag: the acknowledgement number counts.
pub const ACK: u8 = 0x10;

/// A transport header with its payload. The checksum is written once the addresses are known.
#[derive(Clone, Debug)]
pub struct Segment {
    protocol: u8,
    bytes: Vec<u8>,
    checksum: Checksum,
    /// Where the segment's own length stands, which grows with the payload.
    length_at: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Checksum {
    None,
    Plain { at: usize },
    WithAddresses { at: usize },
    Crc32c { at: usize },
}

fn ports(from: u16, to: u16) -> Vec<u8> {
    [from.to_be_bytes(), to.to_be_bytes()].concat()
}

/// A TCP segment: a SYN without options, unless said otherwise.
#[must_use]
pub fn tcp(from: u16, to: u16) -> Segment {
    let mut bytes = ports(from, to);
    bytes.extend(0x1000_0000_u32.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    let checksum = Checksum::WithAddresses { at: 16 };
    Segment { protocol: 6, bytes, checksum, length_at: None }
}

/// A UDP datagram.
#[must_use]
pub fn udp(from: u16, to: u16) -> Segment {
    let mut bytes = ports(from, to);
    bytes.extend([0, 8, 0, 0]);
    let checksum = Checksum::WithAddresses { at: 6 };
    Segment { protocol: 17, bytes, checksum, length_at: Some(4) }
}

/// A UDP-Lite datagram whose checksum covers all of it (RFC 3828).
#[must_use]
pub fn udp_lite(from: u16, to: u16) -> Segment {
    let mut bytes = ports(from, to);
    bytes.extend([0; 4]);
    let checksum = Checksum::WithAddresses { at: 6 };
    Segment { protocol: 136, bytes, checksum, length_at: None }
}

/// A DCCP request (RFC 4340).
#[must_use]
pub fn dccp(from: u16, to: u16) -> Segment {
    let mut bytes = ports(from, to);
    // Header of five words, whole checksum coverage, a request with a 48-bit sequence number.
    bytes.extend([5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]);
    bytes.extend(*b"llm?");
    let checksum = Checksum::WithAddresses { at: 6 };
    Segment { protocol: 33, bytes, checksum, length_at: None }
}

/// An SCTP packet with an INIT chunk (RFC 9260).
#[must_use]
pub fn sctp(from: u16, to: u16) -> Segment {
    let mut bytes = ports(from, to);
    bytes.extend([0; 8]);
    bytes.extend([1, 0, 0, 20]);
    bytes.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    Segment { protocol: 132, bytes, checksum: Checksum::Crc32c { at: 8 }, length_at: None }
}

/// An ICMP message: type, code, and what follows the checksum.
#[must_use]
pub fn icmp(kind: u8, code: u8, body: &[u8]) -> Segment {
    let bytes = [&[kind, code, 0, 0], body].concat();
    Segment { protocol: 1, bytes, checksum: Checksum::Plain { at: 2 }, length_at: None }
}

/// An ICMPv6 message: type, code, and what follows the checksum.
#[must_use]
pub fn icmpv6(kind: u8, code: u8, body: &[u8]) -> Segment {
    let bytes = [&[kind, code, 0, 0], body].concat();
    Segment { protocol: 58, bytes, checksum: Checksum::WithAddresses { at: 2 }, length_at: None }
}

/// Bytes of any other protocol.
#[must_use]
pub fn other(protocol: u8, bytes: &[u8]) -> Segment {
    Segment { protocol, bytes: bytes.to_vec(), checksum: Checksum::None, length_at: None }
}

impl Segment {
    /// The number for the IP header.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// With these TCP flags instead of SYN.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        assert_eq!(self.protocol, 6, "only TCP has flags");
        self.bytes[13] = flags;
        self
    }

    /// With this TCP sequence number.
    #[must_use]
    pub fn sequence(mut self, number: u32) -> Self {
        assert_eq!(self.protocol, 6, "only TCP has sequence numbers");
        self.bytes[4..8].copy_from_slice(&number.to_be_bytes());
        self
    }

    /// With this TCP acknowledgement number. The flag that makes it count is another matter.
    #[must_use]
    pub fn acknowledgement(mut self, number: u32) -> Self {
        assert_eq!(self.protocol, 6, "only TCP acknowledges");
        self.bytes[8..12].copy_from_slice(&number.to_be_bytes());
        self
    }

    /// With this TCP header length, in words, whether it is true or not.
    #[must_use]
    pub fn header_words(mut self, words: u8) -> Self {
        assert_eq!(self.protocol, 6, "only TCP has a header length here");
        self.bytes[12] = words << 4;
        self
    }

    /// With TCP options, whose length must be a multiple of four.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        assert_eq!((self.protocol, options.len() % 4), (6, 0));
        self.bytes[12] = ((5 + options.len() / 4) as u8) << 4;
        self.bytes.extend(options);
        self
    }

    /// With a payload behind what is there.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.bytes.extend(payload);
        if let Some(at) = self.length_at {
            let length = self.bytes.len() as u16;
            self.bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
        }
        self
    }

    /// The bytes on the wire between these addresses.
    #[must_use]
    pub fn bytes(&self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        match self.checksum {
            Checksum::None => {}
            Checksum::Plain { at } => {
                let sum = internet(&[&bytes]);
                bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            }
            Checksum::WithAddresses { at } => {
                let pseudo = pseudo_header(source, destination, self.protocol, bytes.len());
                let sum = match internet(&[&pseudo, &bytes]) {
                    // UDP's 0 means "none"; the other protocols take both forms of zero.
                    0 if self.protocol == 17 => 0xffff,
                    sum => sum,
                };
                bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            }
            Checksum::Crc32c { at } => {
                let sum = crc32c(&bytes);
                bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
        bytes
    }
}
