//! IPv4 headers, honest and otherwise.

use std::net::Ipv4Addr;

use super::{checksum::internet, segment::Segment};

const MORE_FRAGMENTS: u16 = 0x2000;
const DONT_FRAGMENT: u16 = 0x4000;
const RESERVED_FLAG: u16 = 0x8000;

/// An IPv4 header being written.
#[derive(Clone, Debug)]
pub struct Ipv4 {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    options: Vec<u8>,
    identification: u16,
    fragment: u16,
    service: u8,
    time_to_live: u8,
    version: u8,
    header_words: Option<u8>,
    total_length: Option<u16>,
    checksum_is_wrong: bool,
}

/// A packet between two addresses.
#[must_use]
pub const fn ipv4(source: Ipv4Addr, destination: Ipv4Addr) -> Ipv4 {
    Ipv4 {
        source,
        destination,
        options: Vec::new(),
        identification: 0x4711,
        fragment: 0,
        service: 0,
        time_to_live: 64,
        version: 4,
        header_words: None,
        total_length: None,
        checksum_is_wrong: false,
    }
}

impl Ipv4 {
    /// With these options, whose length must be a multiple of four up to 40.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        assert!(options.len() <= 40 && options.len().is_multiple_of(4));
        self.options = options.to_vec();
        self
    }

    /// With `count` bytes of "no operation" options.
    #[must_use]
    pub fn no_operations(self, count: usize) -> Self {
        self.options(&vec![1; count])
    }

    /// With this identification, which fragments of one packet share.
    #[must_use]
    pub const fn identification(mut self, number: u16) -> Self {
        self.identification = number;
        self
    }

    /// With the "don't fragment" flag.
    #[must_use]
    pub const fn dont_fragment(mut self) -> Self {
        self.fragment |= DONT_FRAGMENT;
        self
    }

    /// With the reserved flag, the "evil bit" of RFC 3514.
    #[must_use]
    pub const fn evil(mut self) -> Self {
        self.fragment |= RESERVED_FLAG;
        self
    }

    /// With the "more fragments" flag.
    #[must_use]
    pub const fn more_fragments(mut self) -> Self {
        self.fragment |= MORE_FRAGMENTS;
        self
    }

    /// As the fragment that begins at this byte of the payload.
    #[must_use]
    pub const fn fragment_offset(mut self, bytes: u16) -> Self {
        assert!(bytes.is_multiple_of(8));
        self.fragment |= bytes / 8;
        self
    }

    /// With this type of service (DSCP and ECN).
    #[must_use]
    pub const fn service(mut self, service: u8) -> Self {
        self.service = service;
        self
    }

    /// With this time to live.
    #[must_use]
    pub const fn time_to_live(mut self, hops: u8) -> Self {
        self.time_to_live = hops;
        self
    }

    /// With this version number, whether it is true or not.
    #[must_use]
    pub const fn version(mut self, version: u8) -> Self {
        self.version = version;
        self
    }

    /// With this header length, in words, whether it is true or not.
    #[must_use]
    pub const fn header_words(mut self, words: u8) -> Self {
        self.header_words = Some(words);
        self
    }

    /// With this total length, whether it is true or not.
    #[must_use]
    pub const fn total_length(mut self, length: u16) -> Self {
        self.total_length = Some(length);
        self
    }

    /// With a checksum that is off by one.
    #[must_use]
    pub const fn wrong_checksum(mut self) -> Self {
        self.checksum_is_wrong = true;
        self
    }

    /// The packet with a transport segment.
    #[must_use]
    pub fn carries(&self, segment: &Segment) -> Vec<u8> {
        let bytes = segment.bytes(self.source.into(), self.destination.into());
        self.carries_bytes(segment.protocol(), &bytes)
    }

    /// The packet with any payload.
    #[must_use]
    pub fn carries_bytes(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let words = self.header_words.unwrap_or((header / 4) as u8);
        let length = self.total_length.unwrap_or((header + payload.len()) as u16);
        let mut packet = vec![self.version << 4 | (words & 0x0f), self.service];
        packet.extend(length.to_be_bytes());
        packet.extend(self.identification.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.time_to_live, protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(&self.options);
        let sum = internet(&[&packet]).wrapping_add(u16::from(self.checksum_is_wrong));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    /// The two fragments of a packet, cut at this byte of its payload.
    #[must_use]
    pub fn fragments(&self, segment: &Segment, at: u16) -> [Vec<u8>; 2] {
        let bytes = segment.bytes(self.source.into(), self.destination.into());
        let (head, tail) = bytes.split_at(usize::from(at));
        let first = self.clone().more_fragments();
        let later = self.clone().fragment_offset(at);
        [
            first.carries_bytes(segment.protocol(), head),
            later.carries_bytes(segment.protocol(), tail),
        ]
    }
}
