//! Link layer.

use std::net::Ipv4Addr;

use ollama_guard_common::Reason;

use super::{NOT_GUARDED, Table, drop};
use crate::{
    packet::{Tpid, cut, ethernet, ipv4, ipv6, padded, tcp, udp},
    policy::{FRIEND4, FRIEND6, GUARDED, Lists, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

fn knock4(source: Ipv4Addr) -> Vec<u8> {
    ipv4(source, SERVER4).carries(&tcp(40_000, GUARDED))
}

pub(super) fn rows(table: &mut Table) {
    tags(table);
    addresses(table);
    other_ethertypes(table);
    cuts(table);
    without_ethernet_header(table);
    tags_without_ethernet_header(table);
}

fn tags(table: &mut Table) {
    table.decided_frame4("an_untagged_frame_is_decided", |source| {
        ethernet().carries_ip(&knock4(source))
    });
    table.decided_frame4("a_priority_tag_does_not_hide_the_port", |source| {
        ethernet().priority_tag().carries_ip(&knock4(source))
    });
    for count in [2, 3, 4, 8] {
        let name = format!("{count}_mixed_priority_tags_do_not_hide_the_port");
        table.decided_frame4(&name, |source| {
            ethernet().priority_tags(count).carries_ip(&knock4(source))
        });
        let knock6 = ipv6(STRANGER6, SERVER6).carries(&tcp(40_000, GUARDED));
        let frame = ethernet().priority_tags(count).carries_ip(&knock6);
        table.frame(&format!("{name}_of_ipv6"), Lists::Standard, frame, drop(Reason::NotListed));
    }
    // No source is known behind so many tags: nobody's frame passes.
    for count in [9, 16, 64] {
        for (sender, source) in [("a_stranger", STRANGER4), ("a_friend", FRIEND4)] {
            let name = format!("{count}_tags_are_too_many/{sender}");
            let frame = ethernet().priority_tags(count).carries_ip(&knock4(source));
            let expect = drop(Reason::TooManyVlanTags);
            table.frame(&name, Lists::Standard, frame, expect);
        }
    }
    table.always_dropped_frame(
        "nine_tags_around_ipv6_are_too_many",
        Reason::TooManyVlanTags,
        &ethernet()
            .priority_tags(9)
            .carries_ip(&ipv6(FRIEND6, SERVER6).carries(&tcp(40_000, GUARDED))),
    );
    table.decided_frame4("a_vlan_number_does_not_hide_the_port", |source| {
        ethernet().tag(Tpid::Customer, 5).carries_ip(&knock4(source))
    });
    table.decided_frame4("a_service_tag_does_not_hide_the_port", |source| {
        ethernet().tag(Tpid::Service, 0).carries_ip(&knock4(source))
    });
    table.decided_frame4("a_vlan_number_behind_a_priority_tag_does_not_hide_the_port", |source| {
        ethernet().priority_tag().tag(Tpid::Customer, 5).carries_ip(&knock4(source))
    });
    for tpid in [0x9100, 0x9200] {
        let frame = ethernet().tag(Tpid::Other(tpid), 0).carries_ip(&knock4(STRANGER4));
        table.ordinary_frame(&format!("tpid_{tpid:04x}_is_no_tag_to_linux"), frame);
        let frame =
            ethernet().priority_tag().tag(Tpid::Other(tpid), 0).carries_ip(&knock4(STRANGER4));
        table.ordinary_frame(&format!("tpid_{tpid:04x}_behind_a_tag_is_no_tag"), frame);
    }
}

fn addresses(table: &mut Table) {
    for (name, address) in [
        ("broadcast", [0xff; 6]),
        ("multicast", [1, 0, 0x5e, 0, 0, 1]),
        ("another_host", [2, 0, 0, 0, 0, 0x99]),
    ] {
        let name = format!("the_hardware_address_of_{name}_does_not_hide_the_port");
        table.decided_frame4(&name, |source| ethernet().to(address).carries_ip(&knock4(source)));
    }
}

fn other_ethertypes(table: &mut Table) {
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &knock4(STRANGER4)].concat();
    table.ordinary_frame("ip_in_llc_snap_reaches_no_socket", ethernet().carries_with_length(&snap));
    let pppoe = [&[0x11, 0, 0, 1, 0, 42, 0, 0x21][..], &knock4(STRANGER4)].concat();
    table.ordinary_frame("pppoe_is_left_to_its_own_device", ethernet().carries(0x8864, &pppoe));
    let mpls = [&[0, 0, 0x11, 64][..], &knock4(STRANGER4)].concat();
    table.ordinary_frame("mpls_is_left_to_its_own_device", ethernet().carries(0x8847, &mpls));
    let macsec = [&[0x2c, 0, 0, 0, 0, 1][..], &[0x5a; 64]].concat();
    table.ordinary_frame("macsec_is_left_to_its_own_device", ethernet().carries(0x88e5, &macsec));
}

fn cuts(table: &mut Table) {
    let frame = ethernet().carries_ip(&knock4(FRIEND4));
    for length in [0, 1, 6, 12, 13] {
        let name = format!("a_runt_of_{length}_bytes_is_dropped");
        table.always_dropped_frame(&name, Reason::LinkHeaderCut, &cut(&frame, length));
    }
    let tagged = ethernet().priority_tags(2).carries_ip(&knock4(FRIEND4));
    for length in [14, 15, 16, 17, 18, 20, 21] {
        let name = format!("tags_cut_at_{length}_bytes_are_dropped");
        table.always_dropped_frame(&name, Reason::LinkHeaderCut, &cut(&tagged, length));
    }
    let full = ethernet().priority_tags(8).carries_ip(&knock4(FRIEND4));
    table.always_dropped_frame(
        "the_last_allowed_tag_cut_is_dropped",
        Reason::LinkHeaderCut,
        &cut(&full, 14 + 8 * 4 - 1),
    );
    // Something behind the packet is no reason to look at it.
    table.decided_frame4("a_trailer_does_not_hide_the_port", |source| {
        padded(&ethernet().carries_ip(&knock4(source)), 64)
    });
}

/// Where the EtherType comes from the wire, a tag leaves its control word and the next EtherType at
/// the start of the frame.
fn tags_without_ethernet_header(table: &mut Table) {
    let senders =
        [("a_stranger", STRANGER4, drop(Reason::NotListed)), ("a_friend", FRIEND4, super::ALLOWED)];
    for (sender, source, expect) in senders {
        for priority in [0x00, 0x20, 0x40, 0x50, 0x80, 0xe0] {
            let tag = [priority, 0, 0x08, 0x00];
            let name = format!("a_tag_{priority:02x}_without_link_header_hides_nothing/{sender}");
            let packet = [&tag[..], &knock4(source)].concat();
            table.bare(&name, Lists::Standard, packet, expect);
        }
        let tags = [0, 0, 0x81, 0x00, 0, 0, 0x88, 0xa8, 0, 0, 0x08, 0x00];
        let packet = [&tags[..], &knock4(source)].concat();
        let name = format!("three_tags_without_link_header_hide_nothing/{sender}");
        table.bare(&name, Lists::Standard, packet, expect);
    }
    let many = [0, 0, 0x81, 0x00].repeat(9);
    let packet = [&many[..], &[0, 0, 0x08, 0x00], &knock4(FRIEND4)].concat();
    let expect = drop(Reason::TooManyVlanTags);
    table.bare("ten_tags_without_link_header_are_too_many", Lists::Standard, packet, expect);
    // A control word that looks like an IPv4 header, whose source would be bytes of the real one:
    // here one that is allowed.
    let knock6 = ipv6(STRANGER6, SERVER6).carries(&tcp(40_000, GUARDED));
    let packet = [&[0x40, 0, 0x86, 0xdd][..], &knock6].concat();
    let name = "the_bytes_behind_a_tag_that_looks_like_ipv4_are_no_source";
    table.bare(name, Lists::EveryoneV4, packet, drop(Reason::NotListed));
    // What no kernel takes for a tag.
    let packet = ipv4(STRANGER4, SERVER4).header_words(0).carries(&tcp(40_000, GUARDED));
    let expect = drop(Reason::Ipv4HeaderLength);
    table.bare("ipv4_without_words_that_is_no_tag_is_dropped", Lists::Standard, packet, expect);
    // A control word that looks like an IPv6 header.
    let packet = [&[0x60, 0, 0x86, 0xdd][..], &knock6].concat();
    let expect = drop(Reason::TagOrIpv6);
    table.bare("a_tag_that_looks_like_ipv6_is_dropped", Lists::Everyone, packet, expect);
}

fn without_ethernet_header(table: &mut Table) {
    for nibble in [0, 5, 7, 15] {
        let name = format!("version_{nibble}_on_a_device_without_link_header_is_not_ip");
        let packet = ipv4(STRANGER4, SERVER4).version(nibble).carries(&tcp(40_000, GUARDED));
        table.bare(&name, Lists::Empty, packet, NOT_GUARDED);
    }
    for lists in [Lists::Empty, Lists::Everyone] {
        let name = format!("an_empty_frame_without_link_header_is_dropped/{lists:?}");
        table.bare(&name, lists, Vec::new(), drop(Reason::IpHeaderCut));
    }
    // What would be a priority-tagged frame with an Ethernet header is no IP packet without one:
    // the start is never guessed.
    let frame = ethernet().carries_ip(&knock4(STRANGER4));
    table.bare("an_ethernet_frame_is_not_guessed", Lists::Empty, frame, NOT_GUARDED);
    let packet = ipv4(STRANGER4, SERVER4).carries(&udp(40_000, 53));
    table.bare("a_bare_packet_to_another_port_passes", Lists::Empty, packet, NOT_GUARDED);
}
