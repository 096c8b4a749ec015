//! IPv4 packets and their fragments.

use std::net::Ipv4Addr;

use super::{
    case::Door,
    dice::Dice,
    generator::Piece,
    model::{Extent, Layer, Placed},
    upper::Upper,
};
use crate::packet::{Ipv4, ipv4};

/// The packet, or the fragments of it in order.
#[expect(clippy::too_many_arguments, reason = "who, what, and how much chance there is in it")]
pub(super) fn write(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    upper: &Upper,
    number: u32,
    honest: bool,
    door: Door,
    dice: &mut Dice,
    notes: &mut Vec<&'static str>,
) -> Vec<Piece> {
    let mut head = ipv4(source, destination).identification(number as u16);
    // A time to live of 10 looks like the first byte of a private network.
    head = head.time_to_live(dice.pick(&[64, 64, 255, 1, 10, 10]));
    if dice.chance(20) {
        head = head.service(dice.roll() as u8);
    }
    if dice.chance(6) {
        notes.push("the reserved flag");
        head = head.evil();
    }
    let plain = head.clone();
    let mut head = options(head, honest, dice, notes);
    let cuts = cuts(upper.bytes.len(), honest, dice, notes);
    if cuts.len() == 2 {
        if dice.chance(20) {
            notes.push("don't fragment");
            head = head.dont_fragment();
        }
        if !honest {
            head = lies(head, upper.bytes.len(), door, dice, notes);
        }
        return vec![piece(
            &head,
            source,
            destination,
            Extent::Whole,
            upper.protocol,
            &upper.bytes,
        )];
    }
    let options_on_all = dice.chance(50);
    cuts.windows(2)
        .enumerate()
        .map(|(position, cut)| {
            let is_last = position + 2 == cuts.len();
            let head = if position == 0 || options_on_all { &head } else { &plain };
            // A first fragment that was cut within its first eight bytes claims nothing else.
            let mut head = head.clone().fragment_offset((cut[0] as u16).next_multiple_of(8));
            if !is_last {
                head = head.more_fragments();
            }
            if !honest && dice.chance(6) {
                head = lies(head, cut[1] - cut[0], door, dice, notes);
            }
            let extent = if position == 0 { Extent::First } else { Extent::Later };
            let bytes = &upper.bytes[cut[0]..cut[1]];
            piece(&head, source, destination, extent, upper.protocol, bytes)
        })
        .collect()
}

fn piece(
    head: &Ipv4,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    extent: Extent,
    protocol: u8,
    payload: &[u8],
) -> Piece {
    let bytes = head.carries_bytes(protocol, payload);
    let (version, words) = (bytes[0] >> 4, bytes[0] & 15);
    let layer = Layer::V4 { source, destination, version, words, extent, protocol };
    Piece { bytes, layers: vec![Placed { at: 0, layer }] }
}

fn options(head: Ipv4, honest: bool, dice: &mut Dice, notes: &mut Vec<&'static str>) -> Ipv4 {
    let (note, options) = match dice.below(if honest { 20 } else { 24 }) {
        12..=15 => ("no-operation options", vec![1; 4 * dice.between(1, 10)]),
        16 => ("a router alert", vec![148, 4, 0, 0]),
        17 => ("a record route", [&[1, 7, 39, 4][..], &[0; 36]].concat()),
        18 => ("a timestamp option", [&[68, 12, 5, 0][..], &[0; 8]].concat()),
        19 => ("an end of options", vec![0, 0xee, 0xee, 0xee]),
        20 => ("a loose source route", vec![131, 7, 4, 192, 0, 2, 9, 0]),
        21 => ("a strict source route", vec![137, 7, 4, 192, 0, 2, 9, 0]),
        22 => ("an option that is too long", vec![7, 60, 4, 0]),
        23 => ("an unknown option", vec![0x9e, 4, 1, 2]),
        _ => return head,
    };
    notes.push(note);
    head.options(&options)
}

/// Where the payload is cut, from 0 to its end: twice for a packet in one piece.
fn cuts(length: usize, honest: bool, dice: &mut Dice, notes: &mut Vec<&'static str>) -> Vec<usize> {
    if length <= 8 || dice.chance(70) {
        return vec![0, length];
    }
    let mut cuts = vec![0];
    if !honest && dice.chance(20) {
        notes.push("a first fragment of less than eight bytes");
        cuts.push(dice.between(1, 7));
        // What follows claims the place of the next eight bytes.
        cuts.push(length);
        return cuts;
    }
    if dice.chance(50) {
        notes.push("a first fragment of eight bytes");
        cuts.push(8);
    } else {
        notes.push("fragments");
    }
    let units = (length - 1) / 8;
    for _ in 0..dice.below(4) {
        cuts.push(8 * dice.between(1, units));
    }
    if cuts.len() == 1 {
        cuts.push(8 * dice.between(1, units));
    }
    cuts.push(length);
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// Fields that are not true. Whatever they say, the note of them is made from the finished bytes.
fn lies(
    head: Ipv4,
    payload: usize,
    door: Door,
    dice: &mut Dice,
    notes: &mut Vec<&'static str>,
) -> Ipv4 {
    let (note, head) = match dice.below(40) {
        0 | 1 => ("a header length below five words", head.header_words(dice.below(5) as u8)),
        2 | 3 => ("a header length that is not true", head.header_words(dice.between(5, 15) as u8)),
        // Where there is no EtherType, the version is what tells the family.
        4 | 5 if door.is_cable() => {
            ("an IP version that is not true", head.version(dice.pick(&[0, 5, 6, 7, 15])))
        }
        6 => ("a total length of nothing", head.total_length(0)),
        7 | 8 => (
            "a total length that is too short",
            head.total_length(20 + dice.below(payload.max(1)) as u16),
        ),
        9 => ("a total length that is too long", head.total_length(60 + payload as u16 + 8)),
        10 | 11 => ("a wrong header checksum", head.wrong_checksum()),
        _ => return head,
    };
    notes.push(note);
    head
}
