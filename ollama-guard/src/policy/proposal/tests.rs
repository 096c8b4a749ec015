use std::sync::Arc;

use super::*;
use crate::policy::{Effect, Limits, NameRule, Origin, list};

pub(super) fn rule(effect: Effect, prefix: &str, comment: Option<&str>, is_told: bool) -> Rule {
    let by_command = Origin::Cli { by: "root".into(), at: Timestamp::UNIX_EPOCH };
    let in_file = Origin::File { path: std::path::Path::new("/etc/og.toml").into(), line: 7 };
    Rule {
        prefix: prefix.parse().unwrap(),
        effect,
        limits: None,
        comment: comment.map(Arc::from),
        origin: Arc::new(if is_told { by_command } else { in_file }),
        expires: None,
    }
}

const TALK: u64 = traits::SYN | traits::ACK | traits::DATA;

fn seen(source: &str, packets: u64, traits: u64) -> Sighting {
    Sighting {
        source: source.parse().unwrap(),
        allowed: 0,
        refused: packets,
        bytes: packets * 100,
        first: Timestamp::UNIX_EPOCH,
        last: Timestamp::UNIX_EPOCH,
        traits,
    }
}

fn observed<'a>(
    sightings: &'a [Sighting],
    rules: &'a [Rule],
    nets: &'a [IpNet],
) -> Observations<'a> {
    Observations {
        sightings,
        mode: Mode::Observe,
        since: Timestamp::UNIX_EPOCH,
        until: "1970-01-01T00:10:00Z".parse().unwrap(),
        homeless: 0,
        networks: nets,
        rules,
        names: &[],
    }
}

fn lan() -> [IpNet; 2] {
    ["192.168.1.0/24", "2001:db8:1::/64"].map(|net| net.parse().unwrap())
}

/// Group and prefix of each entry.
fn shown(proposal: &Proposal) -> Vec<(Group, &str)> {
    proposal.entries.iter().map(|entry| (entry.group, entry.prefix.as_str())).collect()
}

#[test]
fn who_talks_is_proposed_and_who_only_knocks_is_not() {
    let sightings = [
        seen("192.168.1.20", 40, TALK),
        seen("203.0.113.9", 30, TALK),
        seen("198.51.100.7", 312, traits::SYN),
        // A scanner that connects and says nothing, and one that sends single acknowledgements.
        seen("198.51.100.8", 3, traits::SYN | traits::ACK),
        seen("198.51.100.9", 2, traits::ACK),
        // It listens to a long answer that began before.
        seen("203.0.113.10", MANY_ACKS, traits::ACK),
        seen("203.0.113.11", 9, traits::DATAGRAM),
        seen("127.0.0.1", 9, TALK),
    ];
    let proposal = propose(&observed(&sightings, &[], &lan()));
    use Group::{Knocking, Local, Public, Unclear};
    assert_eq!(
        shown(&proposal),
        [
            (Local, "192.168.1.20"),
            (Public, "203.0.113.9"),
            (Public, "203.0.113.10"),
            (Unclear, "203.0.113.11"),
            (Unclear, "127.0.0.1"),
            (Knocking, "198.51.100.7"),
            (Knocking, "198.51.100.8"),
            (Knocking, "198.51.100.9"),
        ]
    );
    assert_eq!((proposal.summary.sources, proposal.summary.talked), (8, 4));
    assert_eq!(proposal.summary.packets, 40 + 30 + 312 + 3 + 2 + MANY_ACKS + 9 + 9);
    let text = proposal.to_string();
    assert!(text.contains("# 198.51.100.7 knocked 312 times and never talked\n"), "{text}");
}

#[test]
fn what_rules_say_already_is_marked_and_rules_by_command_stay() {
    let rules = [
        rule(Effect::Allow, "192.168.1.0/24", None, false),
        rule(Effect::Allow, "203.0.113.9", Some("bob # home"), true),
        rule(Effect::Allow, "203.0.113.77", None, true),
        rule(Effect::Deny, "203.0.113.66", None, false),
        rule(Effect::Deny, "198.51.100.0/24", None, true),
    ];
    let sightings = [
        seen("192.168.1.20", 40, TALK),
        seen("192.168.1.21", 2, traits::SYN),
        seen("203.0.113.9", 30, TALK),
        seen("203.0.113.66", 30, TALK),
        seen("198.51.100.7", 30, TALK),
    ];
    let proposal = propose(&observed(&sightings, &rules, &lan()));
    use Group::{Allowed, Denied, Kept};
    assert_eq!(
        shown(&proposal),
        [
            (Kept, "203.0.113.9"),
            (Kept, "203.0.113.77"),
            (Allowed, "192.168.1.0/24"),
            (Denied, "198.51.100.0/24"),
            (Denied, "203.0.113.66"),
        ]
    );
    let allowed = &proposal.entries[2];
    assert_eq!((allowed.sources, allowed.packets(), allowed.bytes), (2, 42, 4200));
    let text = proposal.to_string();
    assert!(text.contains("\n203.0.113.9  # bob # home\n203.0.113.77\n"), "{text}");
    assert!(text.contains("# 192.168.1.0/24: 2 addresses, 42 packets (/etc/og.toml line 7)"));
}

#[test]
fn a_rule_with_limits_is_not_widened_and_one_with_an_end_keeps_it() {
    let limits = Limits::new(Some("webui".into()), Vec::new());
    let limited = |prefix, is_told| Rule {
        limits: limits.clone(),
        ..rule(Effect::Allow, prefix, None, is_told)
    };
    let end: End = "2026-12-01T18:00:00Z".parse().unwrap();
    let rules = [
        limited("192.168.1.0/24", false),
        limited("203.0.113.7", true),
        Rule { expires: Some(end), ..rule(Effect::Allow, "203.0.113.8", Some("guest"), true) },
    ];
    let only_there = Sighting { allowed: 5, refused: 0, ..seen("192.168.1.20", 0, TALK) };
    let sightings = [only_there, seen("192.168.1.21", 9, TALK)];
    let proposal = propose(&observed(&sightings, &rules, &[]));
    use Group::{Kept, Limited, Local};
    assert_eq!(
        shown(&proposal),
        [
            (Kept, "203.0.113.8"),
            (Local, "192.168.1.21"),
            (Limited, "192.168.1.0/24"),
            (Limited, "203.0.113.7"),
        ]
    );
    let text = proposal.to_string();
    assert!(text.contains("\n203.0.113.8 until 2026-12-01T18:00:00Z  # guest\n"), "{text}");
    let line = "# 192.168.1.0/24: 1 address, 5 packets (for webui; /etc/og.toml line 7)\n";
    assert!(text.contains(line), "{text}");
    let read: Vec<_> = list::lines(text.as_bytes()).map(|(_, line)| line.unwrap()).collect();
    assert_eq!(read.len(), 2);
}

pub(super) fn resolved(name: &str, rule: Rule, addresses: &[&str]) -> Resolved {
    let Rule { effect, limits, comment, origin, expires, .. } = rule;
    let rule = NameRule { name: name.parse().unwrap(), effect, limits, comment, origin, expires };
    Resolved { rule, addresses: addresses.iter().map(|one| one.parse().unwrap()).collect() }
}

#[test]
fn a_name_that_was_added_by_command_stays_a_name() {
    let any = |effect, comment, is_told| rule(effect, "0.0.0.0/0", comment, is_told);
    let end: End = "2026-12-01T18:00:00Z".parse().unwrap();
    let limits = Limits::new(Some("webui".into()), vec!["wg0".parse().unwrap()]);
    let names = [
        resolved("home.example.org", any(Effect::Allow, Some("bob"), true), &["203.0.113.9"]),
        // It has no address at present, and stays all the same.
        resolved(
            "lab.example.org",
            Rule { expires: Some(end), ..any(Effect::Allow, None, true) },
            &[],
        ),
        resolved("printer", any(Effect::Allow, None, true), &["192.168.1.9", "2001:db8:7:1::9"]),
        resolved(
            "tv.example.org",
            Rule { limits, ..any(Effect::Allow, None, true) },
            &["203.0.113.7"],
        ),
        resolved("of.example.org", any(Effect::Allow, None, false), &["203.0.113.5"]),
        resolved("bad.example.org", any(Effect::Deny, None, true), &["203.0.113.66"]),
    ];
    // Somebody said one of the addresses as well.
    let rules = [rule(Effect::Allow, "203.0.113.9", None, true)];
    let only_there = Sighting { allowed: 5, refused: 0, ..seen("203.0.113.7", 0, TALK) };
    let sightings = [
        seen("203.0.113.9", 30, TALK),
        seen("2001:db8:7:1::9", 20, TALK),
        seen("203.0.113.5", 10, TALK),
        seen("203.0.113.66", 10, TALK),
        only_there,
    ];
    let proposal = propose(&Observations { names: &names, ..observed(&sightings, &rules, &[]) });
    use Group::{Allowed, Denied, Kept, Limited};
    assert_eq!(
        shown(&proposal),
        [
            (Kept, "203.0.113.9"),
            (Kept, "home.example.org"),
            (Kept, "lab.example.org"),
            (Kept, "host:printer"),
            (Allowed, "of.example.org"),
            (Limited, "tv.example.org"),
            (Denied, "bad.example.org"),
        ]
    );
    assert_eq!(proposal.entries[3].packets(), 20);
    let text = proposal.to_string();
    let list = "\n203.0.113.9\nhome.example.org  # bob\nlab.example.org until 2026-12-01T18:00:00Z\n\
                host:printer\n";
    assert!(text.contains(list), "{text}");
    let line = "# tv.example.org: 1 address, 5 packets (for webui, on wg0; added by root";
    assert!(text.contains(line), "{text}");
    let read: Vec<_> = list::lines(text.as_bytes()).map(|(_, line)| line.unwrap()).collect();
    assert_eq!(read.len(), 4, "{text}");
    assert!(!text.contains("192.168.1.9"), "the addresses of the day are nobody's rule: {text}");
}

#[test]
fn many_hosts_of_a_local_network_stand_for_it() {
    let hosts = |count| (1..=count).map(|n| seen(&format!("192.168.1.{n}"), 5, TALK));
    let [own, _] = lan();
    let few: Vec<_> = hosts(3).collect();
    assert_eq!(propose(&observed(&few, &[], &[own])).entries.len(), 3);
    let many: Vec<_> = hosts(4).collect();
    let proposal = propose(&observed(&many, &[], &[own]));
    assert_eq!(shown(&proposal), [(Group::Local, "192.168.1.0/24")]);
    let line = "192.168.1.0/24  # learned 1970-01-01: 4 addresses, 20 packets, 2.0 KB\n";
    assert!(proposal.to_string().contains(line), "{proposal}");
    // Of a network that no interface is in, and of one that is too wide, a /24 is taken.
    for networks in [&[][..], &["192.168.0.0/15".parse().unwrap()]] {
        assert_eq!(shown(&propose(&observed(&many, &[], networks))), shown(&proposal));
    }
    // Neighbours of a public address are strangers.
    let strangers: Vec<_> = (1..9).map(|n| seen(&format!("203.0.113.{n}"), 5, TALK)).collect();
    let own = ["203.0.113.0/24".parse().unwrap()];
    let proposal = propose(&observed(&strangers, &[], &own));
    assert_eq!(proposal.entries.len(), 8);
    assert!(proposal.entries[0].note.as_deref().unwrap().contains("own network 203.0.113.0/24"));
}

#[test]
fn a_network_with_somebody_in_it_who_did_not_talk_is_not_proposed() {
    let mut sightings: Vec<_> = (1..=5).map(|n| seen(&format!("192.168.1.{n}"), 5, TALK)).collect();
    let denied = [rule(Effect::Deny, "192.168.1.200", None, true)];
    let proposal = propose(&observed(&sightings, &denied, &lan()));
    assert_eq!(proposal.entries.len(), 5);
    assert!(
        proposal.to_string().contains("; not 192.168.1.0/24, in which a deny rule is about some")
    );
    sightings.push(seen("192.168.1.77", 9, traits::SYN));
    let proposal = propose(&observed(&sightings, &[], &lan()));
    assert_eq!(proposal.entries.len(), 6);
    assert!(
        proposal.to_string().contains("; not 192.168.1.0/24, in which 192.168.1.77 did not talk")
    );
}

#[test]
fn hosts_that_change_their_addresses_are_let_in_by_their_network() {
    let of = |sources: &[&str]| {
        let sightings: Vec<_> = sources.iter().map(|source| seen(source, 5, TALK)).collect();
        let proposal = propose(&observed(&sightings, &[], &[]));
        shown(&proposal).into_iter().map(|(_, prefix)| prefix.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of(&["2001:db8:7:1:8d3c:91ff:2e05:77aa"]), ["2001:db8:7:1::/64"]);
    assert_eq!(of(&["2001:db8:7:1::10"]), ["2001:db8:7:1::10"], "somebody gave it this one");
    assert_eq!(of(&["2001:db8:7:1:0211:22ff:fe33:4455"]), ["2001:db8:7:1:211:22ff:fe33:4455"]);
    assert_eq!(of(&["2001:db8:7:1::10", "2001:db8:7:1::11"]), ["2001:db8:7:1::/64"]);
    assert_eq!(of(&["fe80::8d3c:91ff:2e05:77aa"]), ["fe80::8d3c:91ff:2e05:77aa"]);
    assert_eq!(of(&["fd00:1::8d3c:91ff:2e05:77aa"]), ["fd00:1::/64"]);
}

#[test]
fn where_strangers_are_dropped_they_can_only_knock() {
    let mut data_dropped = seen("203.0.113.5", 9, traits::DATA_DROPPED);
    let allowed = [rule(Effect::Allow, "203.0.113.9", None, false)];
    let sightings = [seen("203.0.113.9", 30, TALK), seen("203.0.113.8", 30, TALK), data_dropped];
    let enforced = Observations { mode: Mode::Enforce, ..observed(&sightings, &allowed, &[]) };
    let proposal = propose(&enforced);
    use Group::{Allowed, Unclear};
    assert_eq!(
        shown(&proposal),
        [(Allowed, "203.0.113.9/32"), (Unclear, "203.0.113.8"), (Unclear, "203.0.113.5")]
            .map(|(group, prefix)| (group, prefix.trim_end_matches("/32")))
    );
    assert!(proposal.to_string().contains("Mode observe tells"));
    data_dropped.traits |= traits::SYN;
    assert!(matches!(data_dropped.conversation(), Conversation::Unclear(_)));
}

#[test]
fn what_there_was_no_room_for_is_said_first() {
    let sightings = [seen("203.0.113.9", 30, TALK)];
    let full = Observations { homeless: 41, ..observed(&sightings, &[], &[]) };
    let text = propose(&full).to_string();
    assert!(text.starts_with("# INCOMPLETE: ") && text.contains(" 41 packets"), "{text}");
    assert_eq!(list::lines(text.as_bytes()).count(), 1);
}

#[test]
fn of_a_flood_the_loudest_are_told_and_the_rest_is_a_number() {
    let sightings: Vec<_> =
        (0..=255_u64).map(|n| seen(&format!("198.51.100.{n}"), n + 1, traits::SYN)).collect();
    let proposal = propose(&observed(&sightings, &[], &[]));
    assert_eq!(proposal.entries.len(), MOST_TOLD);
    assert_eq!(proposal.entries[0].prefix, "198.51.100.255");
    let rest = (1..=156_u64).sum();
    assert_eq!(proposal.summary.untold[&Group::Knocking], (156, rest));
    assert!(proposal.to_string().contains(&format!("# and 156 more, with {rest} packets")));
}
