//! Transport layer.

use ollama_guard_common::Reason;

use super::{ALLOWED, NOT_GUARDED, Table, drop};
use crate::{
    packet::{
        ACK, FIN, PSH, RST, SYN, Segment, cut, dccp, ipv4, ipv6, other, sctp, tcp, udp, udp_lite,
    },
    policy::{FRIEND4, FRIEND6, GUARDED, Lists, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

/// MP_JOIN in a SYN (RFC 8684 section 3.2).
const MPTCP_JOIN: [u8; 12] = [30, 12, 0x10, 1, 0, 0, 0, 1, 0, 0, 0, 2];
/// A Fast Open cookie (RFC 7413).
const FAST_OPEN: [u8; 12] = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];

pub(super) fn rows(table: &mut Table) {
    segments(table);
    ports(table);
    other_protocols(table);
    cuts(table);
}

impl Table {
    /// A segment that is decided on, in both families.
    fn decided(&mut self, name: &str, segment: &Segment) {
        self.decided4(name, |source| ipv4(source, SERVER4).carries(segment));
        self.decided6(&format!("{name}_over_ipv6"), |source| {
            ipv6(source, SERVER6).carries(segment)
        });
    }

    /// A stranger's segment, in both families.
    fn strangers(&mut self, name: &str, lists: Lists, segment: &Segment, expect: super::Expect) {
        self.packet(name, lists, &ipv4(STRANGER4, SERVER4).carries(segment), expect);
        let name = format!("{name}_over_ipv6");
        self.packet(&name, lists, &ipv6(STRANGER6, SERVER6).carries(segment), expect);
    }
}

fn segments(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    table.decided("a_syn_with_data_is_decided", &knock.clone().payload(b"GET / HTTP/1.1\r\n\r\n"));
    table.decided("tcp_fast_open_is_decided", &knock.clone().options(&FAST_OPEN).payload(b"GET /"));
    table
        .decided("an_mptcp_join_is_decided_by_its_own_source", &knock.clone().options(&MPTCP_JOIN));
    for (name, flags) in [
        ("no_flags", 0),
        ("syn_and_fin", SYN | FIN),
        ("syn_and_ack", SYN | ACK),
        ("ack", ACK),
        ("rst", RST),
        ("fin", FIN),
        ("data", ACK | PSH),
        ("christmas_tree", 0x3f),
    ] {
        let name = format!("a_segment_with_{name}_is_decided_by_port");
        table.decided(&name, &knock.clone().flags(flags));
    }
    for words in [0, 4, 15] {
        let name = format!("a_tcp_header_of_{words}_words_is_decided_by_port");
        table.decided(&name, &knock.clone().header_words(words));
    }
}

fn ports(table: &mut Table) {
    for from in [GUARDED, 22, 53, 80, 443, 0] {
        let name = format!("the_source_port_{from}_lets_nobody_in");
        table.decided(&name, &tcp(from, GUARDED));
    }
    for to in [0, 1, 22, 80, 443, 11_433, 11_435, 0xaa2c, 65_535] {
        let name = format!("port_{to}_is_not_guarded");
        table.strangers(&name, Lists::Empty, &tcp(GUARDED, to), NOT_GUARDED);
    }
    let other_ports = Lists::StandardOtherPorts;
    for to in [1, 63, 64, 8080, 65_535] {
        table.decided4_under(other_ports, &format!("a_guarded_port_{to}_is_decided"), |source| {
            ipv4(source, SERVER4).carries(&tcp(40_000, to))
        });
    }
    for to in [0, 2, 62, 65, 127, 128, 8079, 8081, 65_534, GUARDED] {
        let name = format!("port_{to}_beside_guarded_ones_is_not_guarded");
        table.strangers(&name, other_ports, &tcp(40_000, to), NOT_GUARDED);
    }
}

fn other_protocols(table: &mut Table) {
    type Make = fn(u16, u16) -> Segment;
    for (protocol, segment) in
        [("udp", udp as Make), ("sctp", sctp), ("dccp", dccp), ("udp_lite", udp_lite)]
    {
        let name = format!("{protocol}_is_not_guarded_unless_configured");
        table.strangers(&name, Lists::Standard, &segment(40_000, GUARDED), NOT_GUARDED);
        let all = Lists::StandardWithAll;
        let name = format!("guarded_{protocol}_is_decided");
        table.decided4_under(all, &name, |source| {
            ipv4(source, SERVER4).carries(&segment(40_000, GUARDED))
        });
        let name = format!("guarded_{protocol}_is_decided_over_ipv6");
        table.decided6_under(all, &name, |source| {
            ipv6(source, SERVER6).carries(&segment(40_000, GUARDED))
        });
        let name = format!("another_port_of_guarded_{protocol}_is_not_guarded");
        table.strangers(&name, all, &segment(40_000, GUARDED + 1), NOT_GUARDED);
    }
    let udp_guarded = Lists::StandardWithUdp;
    table.decided4_under(udp_guarded, "tcp_beside_guarded_udp_is_decided", |source| {
        ipv4(source, SERVER4).carries(&tcp(40_000, GUARDED))
    });
    let segment = sctp(40_000, GUARDED);
    table.strangers("sctp_beside_guarded_udp_is_not_guarded", udp_guarded, &segment, NOT_GUARDED);
}

fn cuts(table: &mut Table) {
    let knock = tcp(40_000, GUARDED);
    for length in 20..24 {
        let name = format!("ports_cut_at_{length}_bytes_are_undecidable");
        table.undecidable4(&name, Reason::PortsCut, |source| {
            cut(&ipv4(source, SERVER4).carries(&knock), length)
        });
    }
    table.decided4("a_tcp_header_cut_behind_the_ports_is_decided", |source| {
        cut(&ipv4(source, SERVER4).carries(&knock), 24)
    });
    table.decided6("a_tcp_header_cut_behind_the_ports_is_decided_over_ipv6", |source| {
        cut(&ipv6(source, SERVER6).carries(&knock), 44)
    });
    let short = cut(&ipv4(STRANGER4, SERVER4).carries(&udp(40_000, GUARDED)), 23);
    table.ordinary("cut_ports_of_unguarded_udp_pass", &short);
    let expect = drop(Reason::PortsCut);
    table.packet("cut_ports_of_guarded_udp_v4_are_dropped", Lists::StandardWithUdp, &short, expect);
    let friend = cut(&ipv4(FRIEND4, SERVER4).carries(&udp(40_000, GUARDED)), 23);
    let name = "cut_ports_of_guarded_udp_from_a_friend_pass";
    table.packet(name, Lists::StandardWithUdp, &friend, ALLOWED);
    let friend = ipv6(FRIEND6, SERVER6).carries(&other(6, &[]));
    table.packet("an_empty_tcp_segment_from_a_friend_passes", Lists::Standard, &friend, ALLOWED);
}
