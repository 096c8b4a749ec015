//! Ordinary traffic: it passes under an empty allowlist.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Table;
use crate::{
    packet::{
        ACK, PSH, SYN, Tpid, ethernet, icmp, icmpv6, ipv4, ipv6, other, padded, sctp, tcp, udp,
    },
    policy::{GUARDED, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const SOLICITED: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
/// An address as privacy extensions make them (RFC 8981).
const TEMPORARY: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0x5c1d, 0x9af3, 0x71be, 0x02c4);

pub(super) fn rows(table: &mut Table) {
    below_ip(table);
    neighbours_and_control(table);
    address_configuration(table);
    services(table);
    replies(table);
    merged(table);
    tunnels(table);
}

fn below_ip(table: &mut Table) {
    let arp = [
        &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2][..],
        &STRANGER4.octets(),
        &[0; 6],
        &SERVER4.octets(),
    ]
    .concat();
    let request = ethernet().to([0xff; 6]).carries(0x0806, &arp);
    table.ordinary_frame("an_arp_request_passes", request.clone());
    table.ordinary_frame("an_arp_request_padded_to_60_bytes_passes", padded(&request, 18));
    table.ordinary_frame(
        "a_gratuitous_arp_passes",
        ethernet().to([0xff; 6]).carries(0x0806, &{
            let mut arp = arp.clone();
            arp[14..18].copy_from_slice(&SERVER4.octets());
            arp
        }),
    );
    table.ordinary_frame(
        "an_arp_request_in_a_vlan_passes",
        ethernet().tag(Tpid::Customer, 5).carries(0x0806, &arp),
    );
    let lldp = ethernet().to([1, 0x80, 0xc2, 0, 0, 0x0e]);
    table.ordinary_frame("lldp_passes", lldp.carries(0x88cc, &[2, 7, 4, 2, 0, 0, 0, 0, 2, 0, 0]));
    let stp = [&[0x42, 0x42, 3, 0, 0, 0, 0, 0][..], &[0; 30]].concat();
    table.ordinary_frame(
        "spanning_tree_passes",
        ethernet().to([1, 0x80, 0xc2, 0, 0, 0]).carries_with_length(&stp),
    );
    table.ordinary_frame("lacp_passes", ethernet().carries(0x8809, &[1; 110]));
    table.ordinary_frame("eapol_passes", ethernet().carries(0x888e, &[1, 1, 0, 0]));
    table.ordinary_frame("precision_time_passes", ethernet().carries(0x88f7, &[0; 44]));
    table.ordinary_frame("wake_on_lan_passes", ethernet().carries(0x0842, &[0xff; 102]));
    table.ordinary_frame("a_header_without_payload_passes", ethernet().carries(0x0842, &[]));
}

fn neighbours_and_control(table: &mut Table) {
    let target = |address: Ipv6Addr| [&[0; 4][..], &address.octets()].concat();
    let option = |kind: u8| [kind, 1, 2, 0, 0, 0, 0, 2];
    let solicit = [target(SERVER6), option(1).to_vec()].concat();
    let advertise = [&[0x60, 0, 0, 0][..], &SERVER6.octets(), &option(2)].concat();
    for (name, packet) in [
        (
            "a_neighbour_solicitation_passes",
            ipv6(STRANGER6, SOLICITED).carries(&icmpv6(135, 0, &solicit)),
        ),
        (
            "duplicate_address_detection_from_the_unspecified_address_passes",
            ipv6(Ipv6Addr::UNSPECIFIED, SOLICITED).carries(&icmpv6(135, 0, &target(SERVER6))),
        ),
        (
            "a_neighbour_advertisement_passes",
            ipv6(STRANGER6, SERVER6).carries(&icmpv6(136, 0, &advertise)),
        ),
        (
            "a_router_solicitation_from_the_unspecified_address_passes",
            ipv6(Ipv6Addr::UNSPECIFIED, ALL_ROUTERS).carries(&icmpv6(133, 0, &[0; 4])),
        ),
        (
            "a_router_solicitation_passes",
            ipv6(ROUTER6, ALL_ROUTERS).carries(&icmpv6(133, 0, &[0; 4])),
        ),
        (
            "a_router_advertisement_passes",
            ipv6(ROUTER6, ALL_NODES).carries(&icmpv6(
                134,
                0,
                &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0],
            )),
        ),
        (
            "a_multicast_listener_report_passes",
            ipv6(Ipv6Addr::UNSPECIFIED, "ff02::16".parse().expect("an address"))
                .extension(0, &[0, 0, 5, 2, 0, 0, 1, 0])
                .carries(&icmpv6(143, 0, &[0, 0, 0, 0])),
        ),
        ("a_ping6_passes", ipv6(STRANGER6, SERVER6).carries(&icmpv6(128, 0, &[0, 1, 0, 1]))),
        ("a_ping6_reply_passes", ipv6(STRANGER6, SERVER6).carries(&icmpv6(129, 0, &[0, 1, 0, 1]))),
        (
            "packet_too_big_passes",
            ipv6(ROUTER6, SERVER6).carries(&icmpv6(2, 0, &[0, 0, 5, 0, 0x60, 0, 0, 0])),
        ),
        ("a_ping_passes", ipv4(STRANGER4, SERVER4).carries(&icmp(8, 0, &[0, 1, 0, 1]))),
        ("a_ping_reply_passes", ipv4(STRANGER4, SERVER4).carries(&icmp(0, 0, &[0, 1, 0, 1]))),
        (
            "a_fragmented_ping_passes",
            ipv4(STRANGER4, SERVER4).fragments(&icmp(8, 0, &[7; 1600]), 1480)[0].clone(),
        ),
        (
            "fragmentation_needed_passes",
            ipv4(STRANGER4, SERVER4).carries(&icmp(3, 4, &[0, 0, 5, 0, 0x45, 0, 0, 0])),
        ),
        (
            "igmp_passes",
            ipv4(STRANGER4, Ipv4Addr::new(224, 0, 0, 22))
                .options(&[148, 4, 0, 0])
                .carries(&other(2, &[0x22, 0, 0xf9, 2, 0, 0, 0, 1])),
        ),
        ("ospf_passes", ipv4(STRANGER4, Ipv4Addr::new(224, 0, 0, 5)).carries(&other(89, &[2; 44]))),
        (
            "vrrp_passes",
            ipv4(STRANGER4, Ipv4Addr::new(224, 0, 0, 18)).carries(&other(112, &[3; 20])),
        ),
    ] {
        table.ordinary(name, &packet);
    }
}

fn address_configuration(table: &mut Table) {
    let dhcp = udp(68, 67).payload(&[1; 244]);
    for (name, packet) in [
        (
            "a_dhcp_discover_from_no_address_passes",
            ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST).carries(&dhcp),
        ),
        (
            "a_dhcp_offer_passes",
            ipv4(STRANGER4, Ipv4Addr::BROADCAST).carries(&udp(67, 68).payload(&[2; 244])),
        ),
        (
            "a_dhcp_renewal_passes",
            ipv4(STRANGER4, SERVER4).carries(&udp(67, 68).payload(&[2; 244])),
        ),
        (
            "a_dhcpv6_solicit_passes",
            ipv6(ROUTER6, "ff02::1:2".parse().expect("an address"))
                .carries(&udp(546, 547).payload(&[1; 60])),
        ),
        ("a_dhcpv6_reply_passes", ipv6(ROUTER6, SERVER6).carries(&udp(547, 546).payload(&[7; 60]))),
    ] {
        table.ordinary(name, &packet);
    }
}

fn services(table: &mut Table) {
    let data = |from, to| tcp(from, to).flags(ACK | PSH).payload(b"some data");
    for (name, segment) in [
        ("an_ssh_connection_request", tcp(50_022, 22)),
        ("ssh_data", data(50_022, 22)),
        ("a_dns_query", udp(5353, 53).payload(&[1; 40])),
        ("a_dns_answer", udp(53, 40_053).payload(&[1; 400])),
        ("dns_over_tcp", data(40_053, 53)),
        ("http", data(40_080, 80)),
        ("https", data(40_443, 443)),
        ("an_https_answer", data(443, 40_443)),
        ("quic", udp(40_443, 443).payload(&[0xc0; 1200])),
        ("ntp", udp(123, 123).payload(&[0x23; 48])),
        ("mdns", udp(5353, 5353).payload(&[0; 40])),
        ("snmp", udp(40_161, 161).payload(&[0x30; 40])),
        ("kubelet", tcp(40_250, 10_250)),
        ("sip", udp(5060, 5060).payload(&[0x20; 200])),
        ("wireguard", udp(51_820, 51_820).payload(&[1; 148])),
        ("udp_to_the_guarded_port", udp(40_000, GUARDED).payload(&[1; 100])),
        ("sctp_to_the_guarded_port", sctp(40_000, GUARDED)),
    ] {
        let packet = ipv4(STRANGER4, SERVER4).dont_fragment().carries(&segment);
        table.ordinary(&format!("{name}_passes"), &packet);
        let packet = ipv6(STRANGER6, SERVER6).carries(&segment);
        table.ordinary(&format!("{name}_over_ipv6_passes"), &packet);
    }
    let https = ipv6(TEMPORARY, SERVER6).carries(&data(40_443, 443));
    table.ordinary("a_temporary_ipv6_address_passes", &https);
    table.ordinary_frame(
        "https_in_a_vlan_passes",
        ethernet().tag(Tpid::Customer, 5).carries_ip(&https),
    );
    table.ordinary_frame("a_padded_short_frame_passes", {
        padded(&ethernet().carries_ip(&ipv4(STRANGER4, SERVER4).carries(&tcp(1, 80))), 6)
    });
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let mdns = ipv4(STRANGER4, group).carries(&udp(5353, 5353).payload(&[0; 40]));
    table.ordinary("mdns_to_its_group_passes", &mdns);
}

fn replies(table: &mut Table) {
    // This host as a client of somebody else's Ollama.
    let reply = tcp(GUARDED, 50_000).flags(SYN | ACK);
    table.ordinary(
        "a_reply_from_the_guarded_port_of_another_host_passes",
        &ipv4(STRANGER4, SERVER4).carries(&reply),
    );
    table.ordinary(
        "a_reply_from_the_guarded_port_of_another_host_over_ipv6_passes",
        &ipv6(STRANGER6, SERVER6).carries(&reply),
    );
}

fn merged(table: &mut Table) {
    let bulk = tcp(443, 50_000).flags(ACK).payload(&vec![7; 60_000]);
    for (name, packet) in [
        ("a_merged_packet_of_60_kb_passes", ipv4(STRANGER4, SERVER4).carries(&bulk)),
        (
            "a_merged_packet_with_total_length_0_passes",
            ipv4(STRANGER4, SERVER4).total_length(0).carries(&bulk),
        ),
        (
            "a_merged_ipv6_packet_with_payload_length_0_passes",
            ipv6(STRANGER6, SERVER6).payload_length(0).carries(&bulk),
        ),
        (
            "a_big_tcp_packet_with_a_jumbo_header_passes",
            ipv6(STRANGER6, SERVER6).payload_length(0).jumbo(60_028).carries(&bulk),
        ),
    ] {
        table.ordinary(name, &packet);
    }
}

fn tunnels(table: &mut Table) {
    let knock4 = ipv4(STRANGER4, SERVER4).carries(&tcp(40_000, GUARDED));
    let knock6 = ipv6(STRANGER6, SERVER6).carries(&tcp(40_000, GUARDED));
    let inner = ethernet().carries_ip(&knock4);
    let vxlan = [&[8, 0, 0, 0, 0, 0, 42, 0][..], &inner].concat();
    let geneve = [&[0, 0, 0x65, 0x58, 0, 0, 42, 0][..], &inner].concat();
    let gre4 = [&[0, 0, 8, 0][..], &knock4].concat();
    let outer4 = || ipv4(STRANGER4, SERVER4);
    let outer6 = || ipv6(STRANGER6, SERVER6);
    // A tunnel's device is a door of its own: the inner packet is judged there.
    for (name, packet) in [
        ("ip_in_ip", outer4().carries_bytes(4, &knock4)),
        ("ipv6_in_ipv4", outer4().carries_bytes(41, &knock6)),
        ("ipv4_in_ipv6", outer6().carries_bytes(4, &knock4)),
        ("ipv6_in_ipv6", outer6().carries_bytes(41, &knock6)),
        ("gre", outer4().carries_bytes(47, &gre4)),
        ("vxlan", outer4().carries(&udp(40_000, 4789).payload(&vxlan))),
        ("vxlan_over_ipv6", outer6().carries(&udp(40_000, 4789).payload(&vxlan))),
        ("geneve", outer4().carries(&udp(40_000, 6081).payload(&geneve))),
        ("l2tp", outer4().carries_bytes(115, &[0; 40])),
        ("esp", outer4().carries_bytes(50, &[0x5a; 80])),
        ("ah", outer4().carries_bytes(51, &[&[6, 4, 0, 0][..], &[0; 20]].concat())),
        ("openvpn", outer4().carries(&udp(40_000, 1194).payload(&[0x38; 60]))),
    ] {
        table.ordinary(&format!("the_outer_packet_of_{name}_is_left_to_its_device"), &packet);
    }
}
