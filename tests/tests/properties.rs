//! What holds for every packet, not only for those of the table.
//!
//! Long because the strategies that make packets serve all the properties, and stand beside them.

use std::net::{Ipv4Addr, Ipv6Addr};

use ollama_guard_common::{
    Judgement, Policy, Protocol, Reason, Source, Standing, Start, Verdict, judge,
    parse::{
        Located, MAX_EXTENSION_BYTES, MAX_EXTENSION_HEADERS, MAX_VLAN_TAGS, locate, locate_plainly,
    },
};
use ollama_guard_tests::{
    packet::{Ipv4, Ipv6, Segment, Tpid, ethernet, ipv4, ipv6, tcp, udp},
    policy::{
        DENIED4, DENIED6, FRIEND4, FRIEND6, GUARDED, HostPolicy, Lists, SERVER4, SERVER6,
        STRANGER4, STRANGER6,
    },
    table::{Case, table},
};
use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any, prop_oneof},
    prop_assert, prop_assert_eq, proptest,
    sample::select,
};

fn judged(frame: &[u8], start: Start, lists: Lists) -> Judgement {
    let policy = lists.policy();
    let judgement = judge(frame, start, &policy);
    // The short way, where there is one, leads where the long one does.
    if let Some(flow) = locate_plainly(frame, start) {
        assert_eq!(locate(frame, start), Located::at(flow));
    }
    judgement
}

fn start() -> impl Strategy<Value = Start> {
    select(vec![Start::Link, Start::Network, Start::Packet])
}

fn lists() -> impl Strategy<Value = Lists> {
    select(Lists::ALL.to_vec())
}

/// Sources of every standing, and any others.
fn source4() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        Just(STRANGER4),
        Just(FRIEND4),
        Just(DENIED4),
        any::<[u8; 4]>().prop_map(Into::into)
    ]
}

fn source6() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![
        Just(STRANGER6),
        Just(FRIEND6),
        Just(DENIED6),
        any::<[u8; 16]>().prop_map(Into::into)
    ]
}

fn segment() -> impl Strategy<Value = Segment> {
    let port = prop_oneof![Just(GUARDED), any::<u16>()];
    (any::<bool>(), any::<u16>(), port, vec(any::<u8>(), 0..40)).prop_map(
        |(is_tcp, from, to, payload)| {
            if is_tcp { tcp(from, to) } else { udp(from, to) }.payload(&payload)
        },
    )
}

/// A frame of the table with a few bytes changed, and perhaps cut: near what the parser knows.
fn near_the_table() -> impl Strategy<Value = Case> {
    let changes = vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6);
    let cases: Vec<Case> = table().into_iter().filter(|case| case.frame.len() < 4000).collect();
    (select(cases), changes, any::<proptest::sample::Index>(), any::<bool>()).prop_map(
        |(mut case, changes, end, is_cut)| {
            for (position, byte) in changes {
                if !case.frame.is_empty() {
                    let position = position.index(case.frame.len().min(120));
                    case.frame[position] = byte;
                }
            }
            if is_cut && !case.frame.is_empty() {
                case.frame.truncate(end.index(case.frame.len()));
            }
            case
        },
    )
}

/// One extension header that may stand anywhere: what to add, and its bytes.
#[derive(Clone, Debug)]
enum Extension {
    DestinationOptions(usize),
    Routing { kind: u8, left: u8 },
    AtomicFragment,
}

impl Extension {
    const fn length(&self) -> usize {
        match self {
            Self::DestinationOptions(length) => *length,
            Self::Routing { .. } => 24,
            Self::AtomicFragment => 8,
        }
    }

    fn added_to(&self, packet: Ipv6) -> Ipv6 {
        match *self {
            Self::DestinationOptions(length) => packet.destination_options(length),
            Self::Routing { kind, left } => packet.routing(kind, left, STRANGER6),
            Self::AtomicFragment => packet.atomic_fragment(),
        }
    }
}

/// Extension headers within the limits of the parser, with one fragment header at most.
fn extensions() -> impl Strategy<Value = (bool, Vec<Extension>)> {
    let one = prop_oneof![
        (1_usize..=256).prop_map(|words| Extension::DestinationOptions(words * 8)),
        Just(Extension::DestinationOptions(8)),
        (any::<u8>(), any::<u8>()).prop_map(|(kind, left)| Extension::Routing { kind, left }),
    ];
    let atomic = proptest::option::of(any::<proptest::sample::Index>());
    (any::<bool>(), vec(one, 0..MAX_EXTENSION_HEADERS - 1), atomic).prop_map(
        |(hop_by_hop, mut chain, atomic)| {
            if let Some(position) = atomic {
                chain.insert(position.index(chain.len() + 1), Extension::AtomicFragment);
            }
            let mut room = MAX_EXTENSION_BYTES - if hop_by_hop { 8 } else { 0 };
            chain.retain(|extension| {
                let fits = extension.length() <= room;
                if fits {
                    room -= extension.length();
                }
                fits
            });
            (hop_by_hop, chain)
        },
    )
}

fn with_tags(packet: &[u8], tags: &[(bool, u16)]) -> Vec<u8> {
    tags.iter()
        .fold(ethernet(), |frame, (service, vlan)| {
            frame.tag(if *service { Tpid::Service } else { Tpid::Customer }, *vlan)
        })
        .carries_ip(packet)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_bytes_are_judged(bytes in vec(any::<u8>(), 0..300), start in start(), lists in lists()) {
        let judgement = judged(&bytes, start, lists);
        prop_assert_eq!(judgement.verdict(), judgement.reason.verdict());
    }

    #[test]
    fn bytes_near_the_table_are_judged(case in near_the_table(), lists in lists()) {
        let judgement = judged(&case.frame, case.start, lists);
        if let Some(transport) = judgement.transport {
            prop_assert!(transport + 4 <= case.frame.len());
        }
        if let Some(network) = judgement.network {
            prop_assert!(network.ends(case.frame.as_slice()).is_some());
        }
    }

    #[test]
    fn before_a_socket_a_packet_is_judged_as_on_a_device_without_tags(
        case in near_the_table(), lists in lists(),
    ) {
        let inside = judged(&case.frame, Start::Packet, lists);
        let outside = judged(&case.frame, Start::Network, lists);
        // Where there may be a tag, nothing is known until it is read; here there is none.
        let could_be_tag = case.frame.get(2..4).is_some_and(|bytes| {
            [[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x88, 0xa8]].iter().any(|tag| bytes == tag)
        });
        prop_assert!(could_be_tag || inside == outside, "{inside:?}, {outside:?}");
        prop_assert!(inside.reason != Reason::TagOrIpv6);
    }

    #[test]
    fn tags_never_change_a_verdict(
        source4 in source4(), source6 in source6(), segment in segment(), lists in lists(),
        tags in vec((any::<bool>(), any::<u16>()), 0..=MAX_VLAN_TAGS),
    ) {
        for packet in [
            ipv4(source4, SERVER4).carries(&segment),
            ipv6(source6, SERVER6).carries(&segment),
        ] {
            let bare = judged(&packet, Start::Network, lists).reason;
            prop_assert_eq!(judged(&with_tags(&packet, &tags), Start::Link, lists).reason, bare);
        }
    }

    #[test]
    fn tags_beyond_the_limit_never_pass(
        source in source4(), segment in segment(), lists in lists(),
        tags in vec((any::<bool>(), any::<u16>()), MAX_VLAN_TAGS + 1..80),
    ) {
        let frame = with_tags(&ipv4(source, SERVER4).carries(&segment), &tags);
        prop_assert_eq!(judged(&frame, Start::Link, lists).verdict(), Verdict::Drop);
    }

    #[test]
    fn options_never_change_a_verdict(
        source in source4(), segment in segment(), lists in lists(),
        words in vec(any::<[u8; 4]>(), 0..=10),
    ) {
        let plain = ipv4(source, SERVER4).carries(&segment);
        let options = ipv4(source, SERVER4).options(&words.concat()).carries(&segment);
        prop_assert_eq!(
            judged(&options, Start::Network, lists).reason,
            judged(&plain, Start::Network, lists).reason,
        );
    }

    #[test]
    fn extension_headers_never_change_a_verdict(
        source in source6(), segment in segment(), lists in lists(), extensions in extensions(),
    ) {
        let plain = ipv6(source, SERVER6);
        let (hop_by_hop, chain) = extensions;
        let first = if hop_by_hop { plain.clone().hop_by_hop(8) } else { plain.clone() };
        let packet = chain.iter().fold(first, |packet, extension| extension.added_to(packet));
        prop_assert_eq!(
            judged(&packet.carries(&segment), Start::Network, lists).reason,
            judged(&plain.carries(&segment), Start::Network, lists).reason,
        );
    }

    #[test]
    fn extension_headers_beyond_the_limits_never_let_a_stranger_in(
        lengths in vec(1_usize..=256, 1..40),
    ) {
        let packet = lengths.iter()
            .fold(ipv6(STRANGER6, SERVER6), |packet, words| packet.destination_options(words * 8))
            .carries(&tcp(40_000, GUARDED));
        let judgement = judged(&packet, Start::Network, Lists::Standard);
        prop_assert_eq!(judgement.verdict(), Verdict::Drop);
    }

    #[test]
    fn lengths_and_checksums_never_change_a_verdict(
        source4 in source4(), source6 in source6(), segment in segment(), lists in lists(),
        length in any::<u16>(), trailer in vec(any::<u8>(), 0..40),
    ) {
        let honest: [Vec<u8>; 2] =
            [ipv4(source4, SERVER4).carries(&segment), ipv6(source6, SERVER6).carries(&segment)];
        let lying = [
            ipv4(source4, SERVER4).total_length(length).wrong_checksum().carries(&segment),
            ipv6(source6, SERVER6).payload_length(length).carries(&segment),
        ];
        for (honest, lying) in honest.iter().zip(lying) {
            let lying = [lying, trailer.clone()].concat();
            prop_assert_eq!(
                judged(&lying, Start::Network, lists).reason,
                judged(honest, Start::Network, lists).reason,
            );
        }
    }

    #[test]
    fn ipv4_rules_never_admit_an_ipv6_source(source in source6(), case in near_the_table()) {
        let packet = ipv6(source, SERVER6).carries(&tcp(40_000, GUARDED));
        let judgement = judged(&packet, Start::Network, Lists::EveryoneV4);
        prop_assert_eq!(judgement.verdict(), Verdict::Drop);
        let judgement = judged(&case.frame, case.start, Lists::EveryoneV4);
        if let Some(ollama_guard_common::Network::V6(_)) = judgement.network {
            prop_assert!(judgement.reason != Reason::Allowed);
        }
    }

    #[test]
    fn ipv6_rules_never_admit_an_ipv4_source(source in source4(), case in near_the_table()) {
        let packet = ipv4(source, SERVER4).carries(&tcp(40_000, GUARDED));
        let judgement = judged(&packet, Start::Network, Lists::EveryoneV6);
        prop_assert_eq!(judgement.verdict(), Verdict::Drop);
        let judgement = judged(&case.frame, case.start, Lists::EveryoneV6);
        if let Some(ollama_guard_common::Network::V4(_)) = judgement.network {
            prop_assert!(judgement.reason != Reason::Allowed);
        }
    }

    #[test]
    fn a_stricter_list_never_admits_more(
        case in near_the_table(), lists in lists(), kept in any::<u8>(),
        denied in vec((any::<[u8; 4]>(), 0_u8..=32), 0..3),
    ) {
        let policy = lists.policy();
        let mut stricter = policy.clone();
        let mut position = 0;
        stricter.allow.retain(|_| { position += 1; kept >> (position % 8) & 1 == 1 });
        for (address, length) in denied {
            let prefix = ipnet::Ipv4Net::new(address.into(), length).expect("up to 32 bits");
            stricter.deny.push(prefix.trunc().into());
        }
        if judge(case.frame.as_slice(), case.start, &policy).verdict() == Verdict::Drop {
            let judgement = judge(case.frame.as_slice(), case.start, &stricter);
            prop_assert_eq!(judgement.verdict(), Verdict::Drop);
        }
    }

    #[test]
    fn more_guarded_ports_never_admit_more(case in near_the_table(), lists in lists()) {
        let policy = lists.policy();
        let more = HostPolicy {
            ports: [policy.ports.clone(), Lists::StandardWithAll.policy().ports].concat(),
            ..policy.clone()
        };
        if judge(case.frame.as_slice(), case.start, &policy).verdict() == Verdict::Drop {
            let judgement = judge(case.frame.as_slice(), case.start, &more);
            prop_assert_eq!(judgement.verdict(), Verdict::Drop);
        }
    }

    #[test]
    fn later_fragments_are_never_decided(
        source4 in source4(), source6 in source6(), lists in lists(), eighths in 1_u16..=8191,
        more in any::<bool>(), number in any::<u8>(), payload in vec(any::<u8>(), 0..60),
        words in vec(any::<[u8; 4]>(), 0..=10),
    ) {
        let offset = eighths * 8;
        let four = ipv4(source4, SERVER4).options(&words.concat()).fragment_offset(offset);
        let four = if more { four.more_fragments() } else { four };
        let six = ipv6(source6, SERVER6).destination_options(8).fragment(offset, more);
        for packet in
            [four.carries_bytes(number, &payload), six.carries_bytes(number, &payload)]
        {
            let judgement = judged(&packet, Start::Network, lists);
            prop_assert_eq!(judgement.reason, Reason::NotGuarded);
        }
    }

    #[test]
    fn where_a_first_fragment_is_cut_never_changes_its_verdict(
        source4 in source4(), source6 in source6(), lists in lists(), eighths in 1_u16..=7,
    ) {
        let segment = tcp(40_000, GUARDED).payload(&[7; 40]);
        let at = eighths * 8;
        let four: Ipv4 = ipv4(source4, SERVER4);
        let six = ipv6(source6, SERVER6);
        for (whole, first) in [
            (four.carries(&segment), &four.fragments(&segment, at)[0]),
            (six.carries(&segment), &six.fragments(&segment, at)[0]),
        ] {
            prop_assert_eq!(
                judged(first, Start::Network, lists).reason,
                judged(&whole, Start::Network, lists).reason,
            );
        }
    }

    /// A cut never opens the door, wherever it is: before the ports, the packet becomes
    /// undecidable; behind them, nothing changes.
    #[test]
    fn a_cut_never_lets_a_strangers_knock_through(
        tags in vec((any::<bool>(), any::<u16>()), 0..=MAX_VLAN_TAGS),
        words in vec(any::<[u8; 4]>(), 0..=10), extensions in extensions(),
        end in any::<proptest::sample::Index>(),
    ) {
        let knock = tcp(40_000, GUARDED);
        let (_, chain) = extensions;
        let six = chain.iter().fold(ipv6(STRANGER6, SERVER6), |p, e| e.added_to(p));
        for packet in [
            ipv4(STRANGER4, SERVER4).options(&words.concat()).carries(&knock),
            ipv4(STRANGER4, SERVER4).fragments(&knock, 8)[0].clone(),
            six.carries(&knock),
            six.fragment(0, true).carries(&knock),
        ] {
            let frame = with_tags(&packet, &tags);
            let cut = &frame[..end.index(frame.len())];
            prop_assert_eq!(judged(cut, Start::Link, Lists::Standard).verdict(), Verdict::Drop);
            let cut = &packet[..end.index(packet.len())];
            prop_assert_eq!(judged(cut, Start::Network, Lists::Standard).verdict(), Verdict::Drop);
        }
    }

    #[test]
    fn hardware_addresses_never_matter(case in near_the_table(), addresses in any::<[u8; 12]>()) {
        if case.start == Start::Link && case.frame.len() >= 12 {
            let mut other = case.frame.clone();
            other[..12].copy_from_slice(&addresses);
            let policy = case.lists.policy();
            prop_assert_eq!(
                judge(other.as_slice(), Start::Link, &policy).reason,
                judge(case.frame.as_slice(), Start::Link, &policy).reason,
            );
        }
    }

    #[test]
    fn an_allowed_source_is_never_dropped_once_its_address_is_known(case in near_the_table()) {
        let judgement = judged(&case.frame, case.start, Lists::Everyone);
        if let Some(network) = judgement.network {
            let ends = network.ends(case.frame.as_slice()).expect("a header that was found");
            // A chain that is not followed may lead to another packet, with a source of its own.
            let may_hide_a_source = match judgement.reason {
                Reason::EncapsulatedBehindRouting
                | Reason::TooManyExtensionHeaders
                | Reason::ExtensionHeadersTooLong => true,
                Reason::FragmentWithoutPorts => judgement.protocol.is_none(),
                _ => false,
            };
            let always = may_hide_a_source
                || ends.source.forbidden().is_some()
                || ends.destination.is_loopback();
            prop_assert_eq!(judgement.verdict() == Verdict::Drop, always);
        }
    }
}

/// A policy whose rules are missing from the kernel.
struct WithoutRules;

impl Policy for WithoutRules {
    fn is_guarded(&self, protocol: Protocol, port: u16) -> bool {
        (protocol, port) == (Protocol::Tcp, GUARDED)
    }

    fn guards_any(&self, protocol: Protocol) -> bool {
        protocol == Protocol::Tcp
    }

    fn standing(&self, _: &Source, _: u32) -> Standing {
        Standing::RulesAbsent
    }
}

#[test]
fn missing_rules_close_the_guarded_port_and_nothing_else() {
    let knock = ipv4(FRIEND4, SERVER4).carries(&tcp(40_000, GUARDED));
    let judgement = judge(knock.as_slice(), Start::Network, &WithoutRules);
    assert_eq!((judgement.verdict(), judgement.reason), (Verdict::Drop, Reason::RulesAbsent));
    for case in table() {
        if case.lists == Lists::Empty && case.expect.1 == Reason::NotGuarded {
            let judgement = judge(case.frame.as_slice(), case.start, &WithoutRules);
            assert_eq!(judgement.reason, Reason::NotGuarded, "{}", case.name);
        }
    }
}
