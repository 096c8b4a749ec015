//! IPv6 packets, their extension headers and their fragments.

use std::net::Ipv6Addr;

use super::{
    dice::Dice,
    generator::Piece,
    model::{Extent, Layer, Placed},
    upper::Upper,
};
use crate::{
    packet::{Ipv6, ipv6, overwritten, tcp},
    policy::SERVER6,
};

const FIXED_HEADER: usize = 40;
/// Bytes of extension headers that fit every device.
const ROOM: usize = 8_000;

/// An extension header to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    HopByHop(usize),
    Destination(usize),
    Routing { kind: u8, left: u8 },
    Atomic,
}

impl Extension {
    const fn length(self) -> usize {
        match self {
            Self::HopByHop(length) | Self::Destination(length) => length,
            Self::Routing { .. } => 24,
            Self::Atomic => 8,
        }
    }

    const fn layer(self) -> Layer {
        match self {
            Self::HopByHop(length) => Layer::HopByHop(length),
            Self::Destination(length) => Layer::Destination(length),
            Self::Routing { .. } => Layer::Routing(24),
            Self::Atomic => Layer::Fragment(Extent::Whole),
        }
    }

    fn add_to(self, head: Ipv6) -> Ipv6 {
        match self {
            Self::HopByHop(length) => head.hop_by_hop(length),
            Self::Destination(length) => head.destination_options(length),
            Self::Routing { kind, left } => head.routing(kind, left, SERVER6),
            Self::Atomic => head.atomic_fragment(),
        }
    }
}

/// The packet, or the fragments of it in order.
pub(super) fn write(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    upper: &Upper,
    number: u32,
    honest: bool,
    dice: &mut Dice,
    notes: &mut Vec<&'static str>,
) -> Vec<Piece> {
    let head = ipv6(source, destination).identification(number);
    let chain = chain(upper.protocol, honest, dice, notes);
    let mut writer = Writer { source, destination, honest, upper, dice, notes };
    if writer.dice.chance(68) {
        vec![writer.whole(&head, &chain)]
    } else {
        writer.fragments(&head, &chain)
    }
}

struct Writer<'a> {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    honest: bool,
    upper: &'a Upper,
    dice: &'a mut Dice,
    notes: &'a mut Vec<&'static str>,
}

impl Writer<'_> {
    fn whole(&mut self, head: &Ipv6, chain: &[Extension]) -> Piece {
        let head = chain.iter().fold(head.clone(), |head, extension| extension.add_to(head));
        let mut layers = placed(chain, FIXED_HEADER);
        let length: usize = chain.iter().map(|extension| extension.length()).sum();
        let layer = Layer::Upper(self.upper.protocol);
        layers.push(Placed { at: FIXED_HEADER + length, layer });
        let mut bytes = head.carries_bytes(self.upper.protocol, &self.upper.bytes);
        if !self.honest && self.dice.chance(8) {
            let honest = bytes.len() - FIXED_HEADER;
            let (note, payload) = match self.dice.below(3) {
                0 => ("a payload length of nothing", 0),
                1 => ("a payload length that is too short", self.dice.below(honest)),
                _ => ("a payload length that is too long", honest + self.dice.between(1, 99)),
            };
            self.notes.push(note);
            bytes = overwritten(&bytes, 4, &(payload as u16).to_be_bytes());
        }
        self.finish(bytes, layers)
    }

    /// Headers before the fragment header are in every fragment, those behind it are cut like the
    /// payload.
    fn fragments(&mut self, head: &Ipv6, chain: &[Extension]) -> Vec<Piece> {
        let split = self.dice.below(chain.len() + 1);
        let (before, behind) = chain.split_at(split);
        let head = before.iter().fold(head.clone(), |head, extension| extension.add_to(head));
        let (next, whole) = self.fragmentable(behind, &self.upper.bytes.clone());
        let first_room = 8 + behind.iter().map(|extension| extension.length()).sum::<usize>();
        let cuts = self.cuts(whole.len(), first_room);
        let fragment_at = FIXED_HEADER + before.iter().map(|e| e.length()).sum::<usize>();
        (0..cuts.len() - 1)
            .map(|position| {
                let (from, to) = (cuts[position], cuts[position + 1]);
                let is_last = position + 2 == cuts.len();
                let mut payload = whole[from..to].to_vec();
                let mut layers = placed(before, FIXED_HEADER);
                let extent = if position == 0 { Extent::First } else { Extent::Later };
                layers.push(Placed { at: fragment_at, layer: Layer::Fragment(extent) });
                let honest_length = (fragment_at + 8 + payload.len() - FIXED_HEADER) as u16;
                if position == 0 {
                    layers.extend(placed(behind, fragment_at + 8));
                    let at = fragment_at + first_room;
                    layers.push(Placed { at, layer: Layer::Upper(self.upper.protocol) });
                    if self.dice.chance(20) {
                        self.notes.push("fake headers behind the end of a first fragment");
                        payload.extend(self.fake(behind, to));
                    }
                }
                let number = if position > 0 && !self.honest && self.dice.chance(15) {
                    self.notes.push("a later fragment that names another next header");
                    self.dice.pick(&[6, 17, 58, 59, 60])
                } else {
                    next
                };
                let head = head.clone().fragment(from as u16, !is_last);
                let head = head.payload_length(honest_length);
                let bytes = head.carries_bytes(number, &payload);
                self.finish(bytes, layers)
            })
            .collect()
    }

    /// Bytes behind the end of a first fragment, as if the same headers went on there, and led to
    /// a port that nobody guards.
    fn fake(&self, behind: &[Extension], from: usize) -> Vec<u8> {
        let elsewhere =
            tcp(443, super::cast::OTHER_PORT).bytes(self.source.into(), self.destination.into());
        let (_, whole) = self.fragmentable(behind, &elsewhere);
        whole.get(from..).unwrap_or(&[]).to_vec()
    }

    /// Some headers and a payload, and the number of the first of them.
    fn fragmentable(&self, behind: &[Extension], payload: &[u8]) -> (u8, Vec<u8>) {
        let head = ipv6(self.source, self.destination);
        let head = behind.iter().fold(head, |head, extension| extension.add_to(head));
        let packet = head.carries_bytes(self.upper.protocol, payload);
        (packet[6], packet[FIXED_HEADER..].to_vec())
    }

    /// Linux wants the whole transport header in the first fragment; an attacker may try less.
    fn cuts(&mut self, length: usize, first_room: usize) -> Vec<usize> {
        let units = (length - 1) / 8;
        if units == 0 {
            return vec![0, length];
        }
        self.notes.push("IPv6 fragments");
        let least = if self.dice.chance(60) { (first_room + 16).div_ceil(8).min(units) } else { 1 };
        let mut cuts = vec![0, 8 * self.dice.between(least, units)];
        for _ in 0..self.dice.below(3) {
            cuts.push(8 * self.dice.between(least, units));
        }
        cuts.push(length);
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }

    fn finish(&mut self, mut bytes: Vec<u8>, mut layers: Vec<Placed>) -> Piece {
        if self.dice.chance(20) {
            let label = self.dice.roll().to_be_bytes();
            bytes[0] |= label[0] & 0x0f;
            bytes[1..4].copy_from_slice(&label[1..4]);
        }
        let payload = u16::from_be_bytes([bytes[4], bytes[5]]);
        let (source, destination) = (self.source, self.destination);
        let layer = Layer::V6 { source, destination, version: 6, payload };
        layers.insert(0, Placed { at: 0, layer });
        Piece { bytes, layers }
    }
}

fn placed(extensions: &[Extension], mut at: usize) -> Vec<Placed> {
    extensions
        .iter()
        .map(|extension| {
            let placed = Placed { at, layer: extension.layer() };
            at += extension.length();
            placed
        })
        .collect()
}

/// Extension headers in an order that Linux takes, or in any.
fn chain(
    protocol: u8,
    honest: bool,
    dice: &mut Dice,
    notes: &mut Vec<&'static str>,
) -> Vec<Extension> {
    let count = match dice.below(20) {
        0..=7 => 0,
        8..=14 => dice.between(1, 3),
        15..=17 => dice.between(4, 8),
        18 => 8,
        _ => dice.pick(&[9, 9, 10, 30, 150]),
    };
    let mut chain = Vec::new();
    // Where there is a packet in a packet, it is what a routing header unpacks.
    if matches!(protocol, 4 | 41) && dice.chance(60) {
        chain.push(Extension::Routing { kind: dice.pick(&[4, 4, 3, 0]), left: 0 });
    }
    let mut has_fragment = false;
    while chain.len() < count {
        let length = match dice.below(20) {
            0..=15 => 8,
            16..=18 => 8 * dice.between(2, 12),
            _ => dice.pick(&[256, 1024, 2040, 2048]),
        };
        let extension = match dice.below(20) {
            0..=3 if chain.is_empty() || !honest && dice.chance(30) => Extension::HopByHop(length),
            4..=6 => {
                let kind = if honest { 0 } else { dice.pick(&[0, 2, 3, 4, 5, 253]) };
                let left = u8::from(!honest && dice.chance(30));
                Extension::Routing { kind, left }
            }
            7..=9 if !has_fragment || !honest && dice.chance(30) => {
                has_fragment = true;
                Extension::Atomic
            }
            _ => Extension::Destination(length),
        };
        let length: usize = chain.iter().map(|known: &Extension| known.length()).sum();
        if length + extension.length() > ROOM {
            break;
        }
        chain.push(extension);
    }
    tell(&chain, notes);
    chain
}

fn tell(chain: &[Extension], notes: &mut Vec<&'static str>) {
    let length: usize = chain.iter().map(|extension| extension.length()).sum();
    match chain.len() {
        0 => {}
        1..=7 => notes.push("up to seven extension headers"),
        8 => notes.push("eight extension headers"),
        _ => notes.push("more than eight extension headers"),
    }
    if length > 2048 {
        notes.push("more than 2,048 bytes of extension headers");
    }
    for extension in chain {
        notes.push(match extension {
            Extension::HopByHop(_) => "hop-by-hop options",
            Extension::Destination(_) => "destination options",
            Extension::Routing { kind: 4, .. } => "a segment routing header",
            Extension::Routing { .. } => "a routing header",
            Extension::Atomic => "an atomic fragment header",
        });
    }
}
