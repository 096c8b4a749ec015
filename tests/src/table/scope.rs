//! Whose packets are decided on, where only those for this host's own addresses are.

use std::net::{Ipv4Addr, Ipv6Addr};

use ollama_guard_common::{Reason, Verdict};

use super::{NOT_GUARDED, SENDERS, Table, drop};
use crate::{
    packet::{ethernet, ipv4, ipv6, tcp, udp},
    policy::{GUARDED, Lists, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

const PASSING_BY: (Verdict, Reason) = (Verdict::Pass, Reason::NotForThisHost);
/// A guest behind this host.
const GUEST4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const GUEST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);

pub(super) fn rows(table: &mut Table) {
    this_host(table);
    other_hosts(table);
    nobody_in_particular(table);
    doubts(table);
}

fn this_host(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    table.decided4_under(Lists::Local, "this_host_is_guarded_as_ever", |source| {
        ipv4(source, SERVER4).carries(&knock)
    });
    table.decided6_under(Lists::Local, "this_host_is_guarded_as_ever_in_ipv6", |source| {
        ipv6(source, SERVER6).carries(&knock)
    });
}

fn other_hosts(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    for (sender, _, source4, source6) in SENDERS {
        for (name, packet) in [
            ("a_guest_is_none_of_our_business", ipv4(source4, GUEST4).carries(&knock)),
            ("a_guest_is_none_of_our_business_in_ipv6", ipv6(source6, GUEST6).carries(&knock)),
            // Not even what this host itself would never take.
            (
                "a_guests_packet_in_doubt_is_none_of_our_business",
                ipv4(source4, GUEST4).carries_bytes(6, &[0, 1]),
            ),
            (
                "a_guests_packet_in_doubt_is_none_of_our_business_in_ipv6",
                ipv6(source6, GUEST6).carries_bytes(6, &[0, 1]),
            ),
        ] {
            table.packet(&format!("{name}/{sender}"), Lists::Local, &packet, PASSING_BY);
        }
        // Inside could be another packet, which this host unpacks and delivers to itself.
        let packet = ipv6(source6, GUEST6).many_destination_options(9).carries(&knock);
        let name = format!("a_guests_packet_that_may_hide_another_is_dropped/{sender}");
        table.packet(&name, Lists::Local, &packet, drop(Reason::TooManyExtensionHeaders));
    }
    let spoofed = ipv4(Ipv4Addr::LOCALHOST, GUEST4).carries(&knock);
    table.packet("a_guest_looks_at_sources_itself", Lists::Local, &spoofed, PASSING_BY);
    let other = ipv4(STRANGER4, GUEST4).carries(&tcp(40_000, 22));
    table.packet("another_port_of_a_guest_is_not_counted", Lists::Local, &other, NOT_GUARDED);
    let other = ipv4(STRANGER4, GUEST4).carries(&udp(40_000, GUARDED));
    table.packet("another_protocol_of_a_guest_is_not_counted", Lists::Local, &other, NOT_GUARDED);
    let guest = ipv4(STRANGER4, GUEST4).carries(&knock);
    table.packet(
        "with_scope_all_a_guest_is_guarded_too",
        Lists::Standard,
        &guest,
        drop(Reason::NotListed),
    );
    for (name, mapped) in [("this_host", SERVER4), ("a_guest", GUEST4)] {
        // On a wire this is nobody's address, and not the IPv4 one.
        let packet = ipv6(STRANGER6, mapped.to_ipv6_mapped()).carries(&knock);
        let name = format!("the_mapped_address_of_{name}_is_decided_on");
        table.packet(&name, Lists::Local, &packet, drop(Reason::NotListed));
    }
}

/// Destinations that no other host has for itself.
fn nobody_in_particular(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    for (name, destination) in [
        ("the_limited_broadcast_counts_as_ours", Ipv4Addr::BROADCAST),
        ("a_multicast_group_counts_as_ours", Ipv4Addr::new(224, 0, 0, 1)),
        ("the_unspecified_address_counts_as_ours", Ipv4Addr::UNSPECIFIED),
        ("a_reserved_address_counts_as_ours", Ipv4Addr::new(240, 0, 0, 1)),
    ] {
        table
            .decided4_under(Lists::Local, name, |source| ipv4(source, destination).carries(&knock));
    }
    for (name, destination) in [
        ("a_multicast_group_counts_as_ours_in_ipv6", Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
        ("the_unspecified_address_counts_as_ours_in_ipv6", Ipv6Addr::UNSPECIFIED),
    ] {
        table
            .decided6_under(Lists::Local, name, |source| ipv6(source, destination).carries(&knock));
    }
    let loopback = ipv4(STRANGER4, Ipv4Addr::LOCALHOST).carries(&knock);
    let expect = drop(Reason::DestinationLoopback);
    table.packet("the_loopback_address_counts_as_ours", Lists::Local, &loopback, expect);
    let loopback = ipv6(STRANGER6, Ipv6Addr::LOCALHOST).carries(&knock);
    table.packet("the_loopback_address_counts_as_ours_in_ipv6", Lists::Local, &loopback, expect);
}

/// What cannot be read as far as the destination is dropped as ever.
fn doubts(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    let cut = &ipv4(STRANGER4, GUEST4).carries(&knock)[..16];
    let expect = drop(Reason::IpHeaderCut);
    table.packet("a_destination_out_of_reach_counts_as_ours", Lists::Local, cut, expect);
    let tags = ethernet().priority_tags(9);
    let frame = tags.carries_ip(&ipv4(STRANGER4, GUEST4).carries(&knock));
    let expect = drop(Reason::TooManyVlanTags);
    table.frame("a_destination_behind_too_many_tags_counts_as_ours", Lists::Local, frame, expect);
    let ours = ipv4(STRANGER4, SERVER4).carries_bytes(6, &[0, 1]);
    let expect = drop(Reason::PortsCut);
    table.packet("a_packet_in_doubt_for_this_host_is_dropped", Lists::Local, &ours, expect);
}
