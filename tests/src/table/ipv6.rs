//! IPv6.
//!
//! Long because each row of the specification is a row here, and a table is read in one piece.

use std::net::Ipv6Addr;

use ollama_guard_common::{
    Reason,
    parse::{MAX_EXTENSION_BYTES, MAX_EXTENSION_HEADERS},
};

use super::{ALLOWED, Table, drop};
use crate::{
    packet::{Ipv6, Segment, cut, ethernet, icmpv6, ipv4, ipv6, overwritten, padded, tcp, udp},
    policy::{FRIEND4, FRIEND6, GUARDED, Lists, SERVER4, SERVER6, STRANGER6},
};

/// A mandatory extension header whose number names no transport protocol.
const EXTENSIONS_WITHOUT_SOCKET: [(&str, u8); 10] = [
    ("authentication", 51),
    ("encapsulating_security", 50),
    ("mobility", 135),
    ("host_identity", 139),
    ("shim6", 140),
    ("no_next_header", 59),
    ("unassigned", 200),
    ("experimental", 253),
    ("ipv4_in_ipv6", 4),
    ("gre", 47),
];

pub(super) fn rows(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    table
        .decided6("a_plain_ipv6_packet_is_decided", |source| ipv6(source, SERVER6).carries(&knock));
    extensions(table, &knock);
    too_many_extensions(table, &knock);
    fragments(table);
    encapsulated(table);
    cuts(table, &knock);
    no_socket_behind(table, &knock);
    lengths(table, &knock);
    sources(table, &knock);
    destinations_and_families(table, &knock);
}

fn extensions(table: &mut Table, knock: &Segment) {
    let mut row = |name: &str, wrap: fn(Ipv6) -> Ipv6| {
        table.decided6(name, |source| wrap(ipv6(source, SERVER6)).carries(knock));
    };
    row("an_atomic_fragment_header_does_not_hide_the_port", Ipv6::atomic_fragment);
    row("destination_options_after_an_atomic_fragment_do_not_hide_the_port", |p| {
        p.atomic_fragment().destination_options(8)
    });
    row("a_routing_header_after_an_atomic_fragment_does_not_hide_the_port", |p| {
        p.atomic_fragment().routing(0, 0, STRANGER6)
    });
    row("hop_by_hop_options_do_not_hide_the_port", |p| p.hop_by_hop(8));
    row("destination_options_do_not_hide_the_port", |p| p.destination_options(8));
    row("every_kind_of_extension_at_once_does_not_hide_the_port", |p| {
        p.hop_by_hop(16).destination_options(24).routing(2, 0, STRANGER6).atomic_fragment()
    });
    row("routing_type_0_without_segments_left_does_not_hide_the_port", |p| {
        p.routing(0, 0, STRANGER6)
    });
    row("routing_type_0_with_segments_left_does_not_hide_the_port", |p| p.routing(0, 1, STRANGER6));
    row("routing_type_2_does_not_hide_the_port", |p| p.routing(2, 1, STRANGER6));
    row("a_segment_routing_header_does_not_hide_the_port", |p| p.routing(4, 0, STRANGER6));
    row("a_segment_routing_header_with_segments_left_does_not_hide_the_port", |p| {
        p.routing(4, 1, STRANGER6)
    });
    row("a_home_address_option_does_not_hide_the_port", |p| {
        // Type 201 with 16 bytes of address, behind four bytes of padding (RFC 6275 section 6.3).
        let mut option = vec![0, 2, 1, 2, 0, 0, 201, 16];
        option.extend(FRIEND6.octets());
        p.extension(60, &option)
    });
    for count in [2, 3, 7, MAX_EXTENSION_HEADERS] {
        let name = format!("{count}_destination_options_headers_do_not_hide_the_port");
        table.decided6(&name, |source| {
            ipv6(source, SERVER6).many_destination_options(count).carries(knock)
        });
    }
    for length in [264, 1024, 2040, MAX_EXTENSION_BYTES] {
        let name = format!("a_destination_options_header_of_{length}_bytes_does_not_hide_the_port");
        table.decided6(&name, |source| {
            ipv6(source, SERVER6).destination_options(length).carries(knock)
        });
    }
    table.decided6("eight_headers_of_2048_bytes_in_all_do_not_hide_the_port", |source| {
        (0..8).fold(ipv6(source, SERVER6), |p, _| p.destination_options(256)).carries(knock)
    });
    table.decided6("extensions_behind_eight_tags_do_not_hide_the_port", |source| {
        ipv6(source, SERVER6).destination_options(MAX_EXTENSION_BYTES).carries(knock)
    });
    for (sender, source, expect) in
        [("a_stranger", STRANGER6, drop(Reason::NotListed)), ("a_friend", FRIEND6, ALLOWED)]
    {
        let packet = (0..8).fold(ipv6(source, SERVER6), |p, _| p.destination_options(256));
        let frame = ethernet().priority_tags(8).carries_ip(&packet.carries(knock));
        let name = format!("the_deepest_readable_port_is_found/{sender}");
        table.frame(&name, Lists::Standard, frame, expect);
    }
}

fn too_many_extensions(table: &mut Table, knock: &Segment) {
    for count in [9, 16, 150] {
        let name = format!("{count}_destination_options_headers_are_too_many");
        table.not_followed6(&name, Reason::TooManyExtensionHeaders, |source| {
            ipv6(source, SERVER6).many_destination_options(count).carries(knock)
        });
    }
    table.not_followed6(
        "an_atomic_fragment_header_counts_as_a_header",
        Reason::TooManyExtensionHeaders,
        |source| ipv6(source, SERVER6).many_destination_options(8).atomic_fragment().carries(knock),
    );
    table.not_followed6(
        "four_headers_of_2048_bytes_are_too_long",
        Reason::ExtensionHeadersTooLong,
        |source| {
            (0..4).fold(ipv6(source, SERVER6), |p, _| p.destination_options(2048)).carries(knock)
        },
    );
    table.not_followed6(
        "2048_bytes_and_one_more_header_are_too_long",
        Reason::ExtensionHeadersTooLong,
        |source| ipv6(source, SERVER6).destination_options(2048).atomic_fragment().carries(knock),
    );
    table.not_followed6(
        "hop_by_hop_options_count_towards_the_length",
        Reason::ExtensionHeadersTooLong,
        |source| ipv6(source, SERVER6).hop_by_hop(8).destination_options(2048).carries(knock),
    );
    for (name, wrap) in [
        (
            "two_hop_by_hop_headers_are_dropped",
            (|p| p.hop_by_hop(8).hop_by_hop(8)) as fn(Ipv6) -> Ipv6,
        ),
        ("hop_by_hop_options_behind_others_are_dropped", |p| {
            p.destination_options(8).hop_by_hop(8)
        }),
        ("hop_by_hop_options_behind_a_fragment_header_are_dropped", |p| {
            p.atomic_fragment().hop_by_hop(8)
        }),
    ] {
        table.undecidable6(name, Reason::HopByHopMisplaced, |source| {
            wrap(ipv6(source, SERVER6)).carries(knock)
        });
    }
}

/// Segment routing unpacks the inner packet and delivers it (`ipv6_srh_rcv`), whose source is
/// another one.
fn encapsulated(table: &mut Table) {
    let bytes = tcp(40_000, GUARDED).bytes(STRANGER6.into(), SERVER6.into());
    for number in [4, 41] {
        let name = format!("protocol_{number}_behind_a_routing_header_is_undecidable");
        table.not_followed6(&name, Reason::EncapsulatedBehindRouting, |source| {
            ipv6(source, SERVER6).routing(4, 0, SERVER6).carries_bytes(number, &bytes)
        });
        let name = format!("protocol_{number}_behind_routing_and_options_is_undecidable");
        table.not_followed6(&name, Reason::EncapsulatedBehindRouting, |source| {
            let packet = ipv6(source, SERVER6).routing(4, 0, SERVER6).destination_options(8);
            packet.carries_bytes(number, &bytes)
        });
        // The kernel unpacks them once the fragments are together.
        let name = format!("protocol_{number}_behind_a_routing_header_in_a_later_fragment");
        table.not_followed6(&name, Reason::FragmentWithoutPorts, |source| {
            let first = ipv6(source, SERVER6).fragment(0, true).routing(4, 0, SERVER6);
            first.carries_bytes(number, &[])
        });
        let packet = ipv6(STRANGER6, SERVER6).destination_options(8).carries_bytes(number, &bytes);
        let name = format!("protocol_{number}_without_a_routing_header_is_a_tunnel_of_its_own");
        table.ordinary(&name, &packet);
    }
}

fn fragments(table: &mut Table) {
    let knock = tcp(40_000, GUARDED).payload(b"POST /api/generate HTTP/1.1\r\n\r\n");
    for at in [8, 24, 40] {
        let name = format!("a_first_fragment_of_{at}_bytes_is_decided");
        table.decided6(&name, |source| ipv6(source, SERVER6).fragments(&knock, at)[0].clone());
        let [_, later] = ipv6(STRANGER6, SERVER6).fragments(&knock, at);
        table.ordinary(&format!("a_later_ipv6_fragment_from_byte_{at}_passes"), &later);
    }
    table.decided6("a_first_fragment_behind_destination_options_is_decided", |source| {
        ipv6(source, SERVER6).destination_options(16).fragments(&knock, 24)[0].clone()
    });
    table.decided6("a_first_fragment_with_options_inside_is_decided", |source| {
        ipv6(source, SERVER6).fragment(0, true).destination_options(8).carries(&knock)
    });
    table.decided6("the_four_bytes_of_the_ports_are_enough_in_ipv6", |source| {
        cut(&ipv6(source, SERVER6).fragments(&knock, 8)[0], 40 + 8 + 4)
    });
    for bytes in 0..4 {
        let name = format!("a_first_ipv6_fragment_of_{bytes}_bytes_is_undecidable");
        table.undecidable6(&name, Reason::FragmentWithoutPorts, |source| {
            cut(&ipv6(source, SERVER6).fragments(&knock, 8)[0], 40 + 8 + bytes)
        });
    }
    // The kernel cuts a packet at its payload length and takes the next header of a first fragment
    // from another one: what stands behind the end is read by nobody.
    let elsewhere = tcp(40_000, 443);
    for (name, real, headers) in [
        ("ports", 8, 0),
        ("an_extension_header", 16, 1),
        ("extension_headers", 16, 2),
        ("extension_headers_of_an_empty_fragment", 0, 1),
    ] {
        let name = format!("{name}_behind_the_end_of_a_first_fragment_are_not_believed");
        table.not_followed6(&name, Reason::FragmentWithoutPorts, |source| {
            let packet = ipv6(source, SERVER6).fragment(0, true);
            let packet = packet.many_destination_options(headers).carries(&elsewhere);
            let real: u16 = real;
            overwritten(&packet, 4, &real.to_be_bytes())
        });
    }
    let inside =
        |source| ipv6(source, SERVER6).fragment(0, true).destination_options(64).carries(&knock);
    let name = "a_first_fragment_that_ends_inside_an_extension_header_is_not_followed";
    table.not_followed6(name, Reason::FragmentWithoutPorts, |s| cut(&inside(s), 40 + 8 + 2));
    // Of the header that ends here it is known what follows it.
    let name = "a_first_fragment_that_ends_inside_its_options_is_undecidable";
    table.undecidable6(name, Reason::FragmentWithoutPorts, |s| cut(&inside(s), 40 + 8 + 40));
    for (name, wrap) in [
        (
            "two_atomic_fragment_headers_are_dropped",
            (|p| p.atomic_fragment().atomic_fragment()) as fn(Ipv6) -> Ipv6,
        ),
        ("two_first_fragment_headers_are_dropped", |p| p.fragment(0, true).fragment(0, true)),
        ("a_later_fragment_inside_an_atomic_one_is_dropped", |p| {
            p.atomic_fragment().fragment(8, false)
        }),
        ("fragment_headers_apart_are_dropped", |p| {
            p.atomic_fragment().destination_options(8).fragment(0, false)
        }),
    ] {
        table.undecidable6(name, Reason::FragmentNested, |source| {
            wrap(ipv6(source, SERVER6)).carries(&knock)
        });
    }
    let bytes = knock.bytes(STRANGER6.into(), SERVER6.into());
    let stranger = || ipv6(STRANGER6, SERVER6);
    for (name, packet) in [
        (
            "a_later_ipv6_fragment_that_looks_like_a_knock_passes",
            stranger().fragment(8, false).carries_bytes(6, &bytes),
        ),
        (
            "a_middle_ipv6_fragment_that_looks_like_a_knock_passes",
            stranger().fragment(8, true).carries_bytes(6, &bytes),
        ),
        (
            "an_ipv6_fragment_at_the_last_offset_passes",
            stranger().fragment(65_528, false).carries_bytes(6, &bytes),
        ),
        (
            "a_later_fragment_that_names_another_next_header_passes",
            stranger().fragment(24, false).carries_bytes(59, &bytes[24..]),
        ),
        (
            "a_later_fragment_behind_destination_options_passes",
            stranger().destination_options(16).fragment(24, false).carries_bytes(6, &bytes[24..]),
        ),
        (
            "a_later_fragment_that_names_destination_options_passes",
            stranger().fragment(24, false).carries_bytes(60, &bytes[24..]),
        ),
        (
            "a_first_ipv6_fragment_of_another_port_passes",
            stranger().fragments(&tcp(40_000, 443), 8)[0].clone(),
        ),
        (
            "a_first_fragment_that_names_no_next_header_passes",
            stranger().fragment(0, true).carries_bytes(59, &bytes[..24]),
        ),
    ] {
        table.ordinary(name, &packet);
    }
}

fn cuts(table: &mut Table, knock: &Segment) {
    let packet = ipv6(FRIEND6, SERVER6).carries(knock);
    for length in [1, 20, 39] {
        let name = format!("a_fixed_ipv6_header_cut_at_{length}_bytes_is_dropped");
        table.always_dropped(&name, Reason::IpHeaderCut, &cut(&packet, length));
    }
    for version in [0, 4, 5, 15] {
        let packet = ipv6(FRIEND6, SERVER6).version(version).carries(knock);
        table.always_dropped_frame(
            &format!("version_{version}_under_the_ethertype_of_ipv6_is_dropped"),
            Reason::VersionMismatch,
            &ethernet().carries(0x86dd, &packet),
        );
    }
    table.always_dropped_frame(
        "an_ipv4_packet_under_the_ethertype_of_ipv6_is_dropped",
        Reason::VersionMismatch,
        &ethernet()
            .carries(0x86dd, &ipv4(FRIEND4, SERVER4).carries(&knock.clone().payload(&[0; 9]))),
    );
    for length in 40..44 {
        let name = format!("ports_of_ipv6_cut_at_{length}_bytes_are_undecidable");
        table.undecidable6(&name, Reason::PortsCut, |source| {
            cut(&ipv6(source, SERVER6).carries(knock), length)
        });
    }
    for length in [40, 41, 43, 44, 47, 48, 60] {
        let name = format!("extension_headers_cut_at_{length}_bytes_are_undecidable");
        table.undecidable6(&name, Reason::ExtensionHeaderCut, |source| {
            cut(
                &ipv6(source, SERVER6)
                    .destination_options(8)
                    .destination_options(24)
                    .destination_options(8)
                    .carries(knock),
                length,
            )
        });
    }
    table.undecidable6("ports_cut_behind_extensions_are_undecidable", Reason::PortsCut, |source| {
        cut(&ipv6(source, SERVER6).destination_options(24).carries(knock), 40 + 24 + 3)
    });
    table.undecidable6(
        "an_extension_header_longer_than_the_frame_is_undecidable",
        Reason::PortsCut,
        |source| ipv6(source, SERVER6).extension(60, &[0, 9, 1, 4, 0, 0, 0, 0]).carries(knock),
    );
}

fn no_socket_behind(table: &mut Table, knock: &Segment) {
    let bytes = knock.bytes(STRANGER6.into(), SERVER6.into());
    for (kind, number) in EXTENSIONS_WITHOUT_SOCKET {
        // With a body that would lead on to the knock, were it followed.
        let body = [&[6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &bytes].concat();
        let packet = ipv6(STRANGER6, SERVER6).carries_bytes(number, &body);
        table.ordinary(&format!("behind_the_header_{kind}_is_no_socket"), &packet);
        let packet =
            ipv6(STRANGER6, SERVER6).many_destination_options(8).carries_bytes(number, &body);
        table
            .ordinary(&format!("behind_eight_options_and_the_header_{kind}_is_no_socket"), &packet);
    }
    table.ordinary(
        "icmpv6_with_the_guarded_port_in_it_is_icmpv6",
        &ipv6(STRANGER6, SERVER6).carries(&icmpv6(128, 0, &[0x2c, 0xaa, 0, 1])),
    );
    let short = cut(&ipv6(STRANGER6, SERVER6).carries(&udp(40_000, GUARDED)), 42);
    table.ordinary("cut_ports_of_an_unguarded_protocol_pass", &short);
    let name = "cut_ports_of_guarded_udp_are_dropped";
    table.packet(name, Lists::StandardWithUdp, &short, drop(Reason::PortsCut));
}

fn lengths(table: &mut Table, knock: &Segment) {
    for length in [0, 1, 19, 21, 65_535] {
        let name = format!("a_payload_length_of_{length}_is_not_looked_at");
        table.decided6(&name, |source| ipv6(source, SERVER6).payload_length(length).carries(knock));
    }
    table.decided6("a_jumbo_option_does_not_hide_the_port", |source| {
        ipv6(source, SERVER6).payload_length(0).jumbo(70_000).carries(knock)
    });
    table.decided6("a_merged_ipv6_packet_of_60_kb_is_decided", |source| {
        ipv6(source, SERVER6).payload_length(0).carries(&knock.clone().payload(&vec![7; 60_000]))
    });
    table.decided6("bytes_after_the_payload_length_are_not_looked_at", |source| {
        padded(&ipv6(source, SERVER6).carries(knock), 600)
    });
}

fn sources(table: &mut Table, knock: &Segment) {
    for (text, reason) in [
        ("::1", Reason::SourceLoopback),
        ("::", Reason::SourceUnspecified),
        ("ff02::1", Reason::SourceMulticast),
        ("ff0e::1234", Reason::SourceMulticast),
        ("::ffff:192.0.2.10", Reason::SourceMapped),
        ("::ffff:127.0.0.1", Reason::SourceMapped),
        ("::ffff:0.0.0.0", Reason::SourceMapped),
    ] {
        let packet = ipv6(address(text), SERVER6).carries(knock);
        table.always_dropped(&format!("the_source_{text}_is_always_dropped"), reason, &packet);
        let name = format!("the_source_{text}_is_dropped_where_every_ipv4_source_is_allowed");
        table.packet(&name, Lists::EveryoneV4, &packet, drop(reason));
    }
    for (text, reason) in [
        ("fe80::66", Reason::NotListed),
        ("fe80::a", Reason::Allowed),
        ("fc00::66", Reason::NotListed),
        ("2001:db8:6:ffff:ffff:ffff:ffff:ffff", Reason::NotListed),
        ("2001:db8:7::", Reason::Allowed),
        ("2001:db8:7:ffff:ffff:ffff:ffff:ffff", Reason::Allowed),
        ("2001:db8:8::", Reason::NotListed),
        ("2001:db8:7:65:ffff:ffff:ffff:ffff", Reason::Allowed),
        ("2001:db8:7:66::", Reason::Denied),
        ("2001:db8:7:66:ffff:ffff:ffff:ffff", Reason::Denied),
        ("2001:db8:7:67::", Reason::Allowed),
    ] {
        let packet = ipv6(address(text), SERVER6).carries(knock);
        let name = format!("the_source_{text}_stands_by_its_most_specific_rule");
        table.packet(&name, Lists::Standard, &packet, (reason.verdict(), reason));
    }
    // Addresses with an allowed IPv4 address inside are IPv6 addresses.
    for text in ["::192.0.2.10", "64:ff9b::192.0.2.10", "2002:c000:20a::1", "::ffff:0:192.0.2.10"] {
        let packet = ipv6(address(text), SERVER6).carries(knock);
        let name = format!("the_source_{text}_is_not_matched_by_rules_for_ipv4");
        table.packet(&name, Lists::EveryoneV4, &packet, drop(Reason::NotListed));
    }
    let own = ipv6(SERVER6, SERVER6).carries(knock);
    let name = "the_servers_own_ipv6_address_as_source_is_not_allowed_by_that";
    table.packet(name, Lists::Empty, &own, drop(Reason::NotListed));
}

fn destinations_and_families(table: &mut Table, knock: &Segment) {
    for (name, destination) in [
        ("a_mapped_destination_does_not_hide_the_port", "::ffff:192.0.2.1"),
        ("a_multicast_destination_does_not_hide_the_port_of_ipv6", "ff02::1"),
        ("a_link_local_destination_does_not_hide_the_port", "fe80::1"),
        ("another_hosts_ipv6_address_does_not_hide_the_port", "2001:db8:99::1"),
    ] {
        table.decided6(name, |source| ipv6(source, address(destination)).carries(knock));
    }
    table.always_dropped(
        "the_ipv6_loopback_destination_from_outside_is_always_dropped",
        Reason::DestinationLoopback,
        &ipv6(STRANGER6, Ipv6Addr::LOCALHOST).carries(knock),
    );
    let six = ipv6(STRANGER6, SERVER6).carries(knock);
    table.packet("rules_for_ipv6_admit_ipv6", Lists::EveryoneV6, &six, ALLOWED);
    let expect = drop(Reason::NotListed);
    table.packet("rules_for_ipv4_do_not_admit_ipv6", Lists::EveryoneV4, &six, expect);
}

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}
