//! What stands before an IP packet: Ethernet, VLAN tags, and what only looks like them.

use super::{
    case::Door,
    dice::Dice,
    generator::Piece,
    model::{Layer, Placed},
};
use crate::{
    bed::SERVER_MAC,
    packet::{Tpid, ethernet},
};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// The frame with a packet in it, and the notes of all its headers.
pub(super) fn write(
    piece: &Piece,
    door: Door,
    number: u32,
    honest: bool,
    dice: &mut Dice,
    notes: &mut Vec<&'static str>,
) -> (Door, Vec<u8>, Vec<Placed>) {
    if let Door::Tun { .. } = door {
        return bare(piece, honest, dice, notes);
    }
    let mut head = ethernet().to(destination(honest, dice, notes)).from(source(number));
    let tags = tags(honest, dice, notes);
    for position in 0..tags {
        let tpid = if dice.chance(60) { Tpid::Customer } else { Tpid::Service };
        let mut control = (dice.below(16) as u16) << 12;
        if !honest && dice.chance(10) {
            notes.push("a VLAN number");
            control |= dice.between(1, 4095) as u16;
        }
        debug_assert!(position < 64);
        head = head.control_word(tpid, control);
    }
    let mut layers = vec![Placed { at: 0, layer: Layer::Ethernet }];
    layers.extend((0..tags).map(|tag| Placed { at: 14 + 4 * tag, layer: Layer::Tag }));
    let at = 14 + 4 * tags;
    if !honest && dice.chance(5) {
        layers.push(Placed { at, layer: Layer::NotIp });
        let (ethertype, before) = no_ip(&piece.bytes, dice, notes);
        return (door, head.carries(ethertype, &[&before, &piece.bytes[..]].concat()), layers);
    }
    // A version that is a lie already may be the other family's.
    let is_lying = is_v4(piece) != (piece.bytes[0] >> 4 == 4);
    if !honest && !is_lying && dice.chance(2) {
        notes.push("an EtherType of the other family");
        let layer = disguised(piece);
        let ethertype = if matches!(layer, Layer::V4 { .. }) { IPV4 } else { IPV6 };
        layers.push(Placed { at, layer });
        return (door, head.carries(ethertype, &piece.bytes), layers);
    }
    layers.extend(moved(&piece.layers, at));
    (door, head.carries(ethertype(piece), &piece.bytes), layers)
}

/// A hardware address that no other case has: a frame that is cut behind its Ethernet header is
/// still known by it.
fn source(number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [2, 1, a, b, c, d]
}

fn destination(honest: bool, dice: &mut Dice, notes: &mut Vec<&'static str>) -> [u8; 6] {
    if honest || dice.chance(90) {
        return SERVER_MAC;
    }
    notes.push("a hardware address that is not the server's");
    dice.pick(&[[0xff; 6], [0x01, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], [2, 9, 9, 9, 9, 9]])
}

fn tags(honest: bool, dice: &mut Dice, notes: &mut Vec<&'static str>) -> usize {
    match dice.below(20) {
        0..=9 => 0,
        10..=13 => {
            notes.push("a VLAN tag");
            1
        }
        14..=17 => {
            notes.push("two to seven VLAN tags");
            dice.between(2, 7)
        }
        18 => {
            notes.push("eight VLAN tags");
            8
        }
        _ if honest && dice.chance(60) => 0,
        _ => {
            notes.push("more than eight VLAN tags");
            dice.pick(&[9, 9, 10, 12, 16, 64])
        }
    }
}

/// An EtherType that leads to no IP, and what stands between it and a packet.
fn no_ip(packet: &[u8], dice: &mut Dice, notes: &mut Vec<&'static str>) -> (u16, Vec<u8>) {
    let [high, low] = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 }.to_be_bytes();
    let (note, ethertype, before) = match dice.below(6) {
        0 => ("TPID 0x9100", 0x9100, vec![0, 0, high, low]),
        1 => ("TPID 0x9200", 0x9200, vec![0, 0, high, low]),
        2 => {
            let length = (packet.len() + 8).min(1500) as u16;
            ("IP in LLC/SNAP", length, vec![0xaa, 0xaa, 3, 0, 0, 0, high, low])
        }
        3 => {
            let protocol = if high == 8 { 0x21 } else { 0x57 };
            ("PPPoE", 0x8864, vec![0x11, 0, 0, 1, 0, packet.len() as u8, 0, protocol])
        }
        4 => ("MPLS", 0x8847, vec![0, 0x10, 1, 64]),
        _ => ("MACsec", 0x88e5, vec![0, 0, 0, 0, 0, 1]),
    };
    notes.push(note);
    (ethertype, before)
}

const fn is_v4(piece: &Piece) -> bool {
    matches!(piece.layers.as_slice(), [Placed { layer: Layer::V4 { .. }, .. }, ..])
}

const fn ethertype(piece: &Piece) -> u16 {
    if is_v4(piece) { IPV4 } else { IPV6 }
}

/// A packet under the EtherType of the other family. The addresses play no part: it is refused
/// for its version.
fn disguised(piece: &Piece) -> Layer {
    let (version, words) = (piece.bytes[0] >> 4, piece.bytes[0] & 15);
    if is_v4(piece) {
        let nowhere = std::net::Ipv6Addr::UNSPECIFIED;
        Layer::V6 { source: nowhere, destination: nowhere, version, payload: 0 }
    } else {
        let nowhere = std::net::Ipv4Addr::UNSPECIFIED;
        let extent = super::model::Extent::Whole;
        Layer::V4 { source: nowhere, destination: nowhere, version, words, extent, protocol: 6 }
    }
}

fn moved(layers: &[Placed], by: usize) -> impl Iterator<Item = Placed> {
    layers.iter().map(move |placed| Placed { at: placed.at + by, layer: placed.layer.clone() })
}

/// A frame for a device without Ethernet header.
fn bare(
    piece: &Piece,
    honest: bool,
    dice: &mut Dice,
    notes: &mut Vec<&'static str>,
) -> (Door, Vec<u8>, Vec<Placed>) {
    let tags = match dice.below(20) {
        0..=9 => 0,
        10..=13 => 1,
        14..=17 => dice.between(2, 7),
        18 => 8,
        _ => dice.pick(&[9, 12]),
    };
    let mut ethertype = ethertype(piece);
    if tags > 0 {
        notes.push(if tags > 8 {
            "more than eight tags without Ethernet header"
        } else {
            "tags without Ethernet header"
        });
    } else if !honest && dice.chance(4) {
        notes.push("an EtherType of the other family");
        ethertype ^= IPV4 ^ IPV6;
    }
    // From the innermost tag outwards: each control word stands before the EtherType inside it.
    let mut head = Vec::new();
    for _ in 0..tags {
        // VLAN number 0, which needs no VLAN device; any priority, drop eligible or not.
        let control = (dice.below(16) as u16) << 12;
        let words = [control.to_be_bytes(), ethertype.to_be_bytes()].concat();
        head.splice(0..0, words);
        ethertype = dice.pick(&[0x8100, 0x88a8]);
    }
    let mut bytes = [&head[..], &piece.bytes].concat();
    let mut layers: Vec<Placed> =
        (0..tags).map(|tag| Placed { at: 4 * tag, layer: Layer::ControlWord }).collect();
    layers.extend(moved(&piece.layers, head.len()));
    if tags == 0 && !is_v4(piece) && dice.chance(4) {
        notes.push("a flow label that looks like a tag");
        let label = dice.pick(&[IPV4, IPV6, 0x8100, 0x88a8]).to_be_bytes();
        bytes[..4].copy_from_slice(&[0x60, 0, label[0], label[1]]);
    }
    (Door::Tun { ethertype }, bytes, layers)
}
