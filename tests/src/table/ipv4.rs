//! IPv4.

use std::net::Ipv4Addr;

use ollama_guard_common::Reason;

use super::{ALLOWED, Table, drop};
use crate::{
    packet::{Tpid, cut, ethernet, icmp, ipv4, ipv6, padded, tcp, udp},
    policy::{FRIEND4, GUARDED, Lists, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

/// A loose source route through one router.
const LOOSE_SOURCE_ROUTE: [u8; 8] = [0x83, 7, 4, 192, 0, 2, 254, 0];

pub(super) fn rows(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    table
        .decided4("a_plain_ipv4_packet_is_decided", |source| ipv4(source, SERVER4).carries(&knock));
    options(table);
    malformed(table);
    lengths(table);
    fragments(table);
    fragments_in_different_tags(table);
    sources(table);
    destinations(table);
    families_are_never_mixed(table);
}

fn options(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    for count in (4..=40).step_by(4) {
        let name = format!("ip_options_of_{count}_bytes_do_not_hide_the_port");
        table.decided4(&name, |source| ipv4(source, SERVER4).no_operations(count).carries(&knock));
    }
    table.decided4("a_loose_source_route_does_not_hide_the_port", |source| {
        ipv4(source, SERVER4).options(&LOOSE_SOURCE_ROUTE).carries(&knock)
    });
    // Options that look like ports of another service are still options.
    let bait = tcp(40_000, 80).bytes(STRANGER4.into(), SERVER4.into());
    table.decided4("options_that_look_like_another_port_do_not_hide_the_port", |source| {
        ipv4(source, SERVER4).options(&bait).carries(&knock)
    });
    table.ordinary(
        "options_that_look_like_the_guarded_port_are_options",
        &ipv4(STRANGER4, SERVER4)
            .options(&tcp(40_000, GUARDED).bytes(STRANGER4.into(), SERVER4.into()))
            .carries(&tcp(40_000, 80)),
    );
}

fn malformed(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    for words in 0..5 {
        let name = format!("an_ipv4_header_of_{words}_words_is_undecidable");
        table.undecidable4(&name, Reason::Ipv4HeaderLength, |source| {
            ipv4(source, SERVER4).header_words(words).carries(&knock)
        });
    }
    for version in [0, 5, 6, 15] {
        let packet = ipv4(FRIEND4, SERVER4).version(version).carries(&knock);
        table.always_dropped_frame(
            &format!("version_{version}_under_the_ethertype_of_ipv4_is_dropped"),
            Reason::VersionMismatch,
            &ethernet().carries(0x0800, &packet),
        );
    }
    let packet = ipv4(FRIEND4, SERVER4).no_operations(8).carries(&knock);
    for length in [1, 8, 19] {
        table.always_dropped(
            &format!("a_fixed_header_cut_at_{length}_bytes_is_dropped"),
            Reason::IpHeaderCut,
            &cut(&packet, length),
        );
    }
    table.always_dropped_frame(
        "nothing_behind_the_ethertype_of_ipv4_is_dropped",
        Reason::IpHeaderCut,
        &ethernet().carries(0x0800, &[]),
    );
    for length in [20, 24, 27] {
        let name = format!("options_cut_at_{length}_bytes_are_undecidable");
        table.undecidable4(&name, Reason::PortsCut, |source| {
            cut(&ipv4(source, SERVER4).no_operations(8).carries(&knock), length)
        });
    }
    table.undecidable4(
        "a_header_longer_than_the_frame_is_undecidable",
        Reason::PortsCut,
        |source| ipv4(source, SERVER4).header_words(15).carries(&knock),
    );
}

fn lengths(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    for length in [0, 1, 19, 20, 39, 41, 1500, 65_535] {
        let name = format!("a_total_length_of_{length}_is_not_looked_at");
        table.decided4(&name, |source| ipv4(source, SERVER4).total_length(length).carries(&knock));
    }
    table.decided4("a_bad_header_checksum_is_not_looked_at", |source| {
        ipv4(source, SERVER4).wrong_checksum().carries(&knock)
    });
    table.decided4("bytes_after_the_total_length_are_not_looked_at", |source| {
        padded(&ipv4(source, SERVER4).carries(&knock), 600)
    });
    table.decided4("a_merged_packet_of_60_kb_is_decided", |source| {
        ipv4(source, SERVER4).total_length(0).carries(&knock.clone().payload(&vec![7; 60_000]))
    });
}

fn fragments(table: &mut Table) {
    let knock = tcp(40_000, GUARDED).payload(b"POST /api/generate HTTP/1.1\r\n\r\n");
    let first = |source: Ipv4Addr, at: u16| ipv4(source, SERVER4).fragments(&knock, at)[0].clone();
    for at in [8, 16, 24] {
        let name = format!("a_first_fragment_of_{at}_bytes_is_decided");
        table.decided4(&name, |source| first(source, at));
        let [_, later] = ipv4(STRANGER4, SERVER4).fragments(&knock, at);
        table.ordinary(&format!("a_later_fragment_from_byte_{at}_passes"), &later);
    }
    table.decided4("a_first_fragment_with_options_is_decided", |source| {
        ipv4(source, SERVER4).no_operations(40).fragments(&knock, 8)[0].clone()
    });
    table.decided4("dont_fragment_makes_no_fragment", |source| {
        ipv4(source, SERVER4).dont_fragment().carries(&knock)
    });
    table.decided4("dont_fragment_and_more_fragments_make_a_first_fragment", |source| {
        ipv4(source, SERVER4).dont_fragment().fragments(&knock, 8)[0].clone()
    });
    table.decided4("the_reserved_flag_makes_no_fragment", |source| {
        ipv4(source, SERVER4).evil().carries(&knock)
    });
    table.decided4("all_flags_at_once_make_a_first_fragment", |source| {
        ipv4(source, SERVER4).evil().dont_fragment().fragments(&knock, 8)[0].clone()
    });
    for bytes in 0..4 {
        let name = format!("a_first_fragment_of_{bytes}_bytes_is_undecidable");
        table.undecidable4(&name, Reason::FragmentWithoutPorts, |source| {
            cut(&first(source, 8), 20 + bytes)
        });
    }
    table.decided4("the_four_bytes_of_the_ports_are_enough", |source| cut(&first(source, 8), 24));
    // A later fragment is never read for ports, whatever it looks like.
    let bytes = knock.bytes(STRANGER4.into(), SERVER4.into());
    for (name, packet) in [
        (
            "a_later_fragment_that_looks_like_a_knock_passes",
            ipv4(STRANGER4, SERVER4).fragment_offset(8).carries_bytes(6, &bytes),
        ),
        (
            "a_middle_fragment_that_looks_like_a_knock_passes",
            ipv4(STRANGER4, SERVER4).fragment_offset(8).more_fragments().carries_bytes(6, &bytes),
        ),
        (
            "a_fragment_at_the_last_offset_passes",
            ipv4(STRANGER4, SERVER4).fragment_offset(65_528).carries_bytes(6, &bytes),
        ),
        (
            "a_later_fragment_with_dont_fragment_passes",
            ipv4(STRANGER4, SERVER4).dont_fragment().fragment_offset(8).carries_bytes(6, &bytes),
        ),
        (
            "a_later_fragment_with_the_reserved_flag_passes",
            ipv4(STRANGER4, SERVER4).evil().fragment_offset(8).carries_bytes(6, &bytes),
        ),
        (
            "an_empty_later_fragment_passes",
            ipv4(STRANGER4, SERVER4).fragment_offset(8).carries_bytes(6, &[]),
        ),
        (
            "the_first_fragment_of_another_port_passes",
            ipv4(STRANGER4, SERVER4).fragments(&tcp(40_000, 443), 8)[0].clone(),
        ),
    ] {
        table.ordinary(name, &packet);
    }
    // Two bytes of an UDP datagram could be for a guarded port only if one is guarded in UDP.
    let short =
        cut(&ipv4(STRANGER4, SERVER4).fragments(&udp(40_000, GUARDED).payload(b"x"), 8)[0], 22);
    table.ordinary("a_short_first_fragment_of_an_unguarded_protocol_passes", &short);
    let expect = drop(Reason::FragmentWithoutPorts);
    table.packet(
        "a_short_first_fragment_of_guarded_udp_is_dropped",
        Lists::StandardWithUdp,
        &short,
        expect,
    );
}

fn fragments_in_different_tags(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    table.decided_frame4("the_first_fragment_is_decided_whatever_its_tag", |source| {
        let [first, _] = ipv4(source, SERVER4).fragments(&knock, 8);
        ethernet().tag(Tpid::Service, 0).carries_ip(&first)
    });
    let [_, later] = ipv4(STRANGER4, SERVER4).fragments(&knock, 8);
    table.ordinary_frame(
        "a_later_fragment_in_another_tag_passes",
        ethernet().priority_tags(3).carries_ip(&later),
    );
}

fn sources(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    for (address, reason) in [
        ([127, 0, 0, 1], Reason::SourceLoopback),
        ([127, 255, 255, 254], Reason::SourceLoopback),
        ([224, 0, 0, 1], Reason::SourceMulticast),
        ([239, 255, 255, 255], Reason::SourceMulticast),
        ([255, 255, 255, 255], Reason::SourceMulticast),
        ([0, 0, 0, 0], Reason::SourceUnspecified),
    ] {
        let source = Ipv4Addr::from(address);
        let name = format!("the_source_{source}_is_always_dropped");
        table.always_dropped(&name, reason, &ipv4(source, SERVER4).carries(&knock));
    }
    // Nothing about a source but the rules lets it in.
    for (name, source) in [
        ("the_servers_own_address_as_source_is_not_allowed_by_that", SERVER4),
        ("a_private_source_is_not_allowed_by_that", Ipv4Addr::new(10, 0, 0, 1)),
        ("a_link_local_source_is_not_allowed_by_that", Ipv4Addr::new(169, 254, 0, 1)),
        ("a_reserved_source_is_not_allowed_by_that", Ipv4Addr::new(240, 0, 0, 1)),
    ] {
        let packet = ipv4(source, SERVER4).carries(&knock);
        table.packet(name, Lists::Empty, &packet, drop(Reason::NotListed));
    }
    table.packet(
        "a_spoofed_friend_passes_for_an_address_is_not_an_identity",
        Lists::Standard,
        &ipv4(FRIEND4, SERVER4).carries(&knock),
        ALLOWED,
    );
    // The edges of the prefixes in the lists.
    for (last, reason) in [(0, Reason::Allowed), (127, Reason::Allowed), (128, Reason::NotListed)] {
        let source = Ipv4Addr::new(192, 0, 2, last);
        let name = format!("{source}_stands_by_the_prefix_192_0_2_0_25");
        let packet = ipv4(source, SERVER4).carries(&knock);
        table.packet(&name, Lists::Standard, &packet, (reason.verdict(), reason));
    }
    for (last, reason) in [(6, Reason::NotListed), (7, Reason::Allowed), (8, Reason::NotListed)] {
        let source = Ipv4Addr::new(198, 51, 100, last);
        let name = format!("{source}_stands_by_the_single_address_198_51_100_7");
        let packet = ipv4(source, SERVER4).carries(&knock);
        table.packet(&name, Lists::Standard, &packet, (reason.verdict(), reason));
    }
}

fn destinations(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    for destination in [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 8, 9, 10)] {
        let name = format!("the_destination_{destination}_from_outside_is_always_dropped");
        let packet = ipv4(STRANGER4, destination).carries(&knock);
        table.always_dropped_loopback(&name, &packet);
    }
    table.ordinary(
        "the_loopback_destination_of_another_port_is_not_our_business",
        &ipv4(STRANGER4, Ipv4Addr::LOCALHOST).carries(&tcp(40_000, 22)),
    );
    for (name, destination) in [
        ("the_limited_broadcast_does_not_hide_the_port", Ipv4Addr::BROADCAST),
        ("a_directed_broadcast_does_not_hide_the_port", Ipv4Addr::new(192, 0, 2, 255)),
        ("a_multicast_destination_does_not_hide_the_port", Ipv4Addr::new(224, 0, 0, 1)),
        ("another_hosts_address_does_not_hide_the_port", Ipv4Addr::new(198, 51, 100, 1)),
    ] {
        table.decided4(name, |source| ipv4(source, destination).carries(&knock));
    }
}

fn families_are_never_mixed(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    let four = ipv4(STRANGER4, SERVER4).carries(&knock);
    table.packet("rules_for_ipv4_admit_ipv4", Lists::EveryoneV4, &four, ALLOWED);
    table.packet(
        "rules_for_ipv6_do_not_admit_ipv4",
        Lists::EveryoneV6,
        &four,
        drop(Reason::NotListed),
    );
    let six = ipv6(STRANGER6, SERVER6).carries(&knock);
    table.always_dropped_frame(
        "an_ipv6_packet_under_the_ethertype_of_ipv4_is_dropped",
        Reason::VersionMismatch,
        &ethernet().carries(0x0800, &six),
    );
    table.ordinary("icmp_with_the_guarded_port_in_it_is_icmp", &{
        let [high, low] = GUARDED.to_be_bytes();
        ipv4(STRANGER4, SERVER4).carries(&icmp(8, 0, &[high, low, 0, 0]))
    });
}

impl Table {
    /// To a loopback address: dropped for whom the rules allow, too.
    fn always_dropped_loopback(&mut self, name: &str, packet: &[u8]) {
        self.always_dropped(name, Reason::DestinationLoopback, packet);
    }
}
