use super::*;
use crate::{dataplane::AttachMode, doors::interface::XdpSlots};

const ETHERNET: u16 = 1;
const PPP: u16 = 512;
const INFINIBAND: u16 = 32;
const LOOPBACK: u16 = 772;
const NONE: u16 = 65534;

/// An interface that is up, with neither master nor parent.
fn device(ifindex: u32, name: &str, kind: &str, arphrd: u16) -> Interface {
    Interface {
        name: name.to_owned(),
        ifindex,
        arphrd,
        kind: (!kind.is_empty()).then(|| kind.to_owned()),
        master: None,
        parent: None,
        parent_is_here: true,
        up: true,
        mtu: 1500,
        frames: None,
        xdp: XdpSlots::default(),
    }
}

fn card(ifindex: u32, name: &str) -> Interface {
    device(ifindex, name, "", ETHERNET)
}

fn in_master(interface: Interface, master: u32) -> Interface {
    Interface { master: Some(master), ..interface }
}

fn on(interface: Interface, parent: u32) -> Interface {
    Interface { parent: Some(parent), ..interface }
}

fn down(interface: Interface) -> Interface {
    Interface { up: false, ..interface }
}

fn chosen(interfaces: &[Interface], selection: &Selection<'_>) -> Vec<Plan> {
    choose(interfaces, selection).into_iter().map(|door| door.plan).collect()
}

fn automatic(interfaces: &[Interface]) -> Vec<Plan> {
    automatic_without(interfaces, &[])
}

fn automatic_without(interfaces: &[Interface], excluded: &[&str]) -> Vec<Plan> {
    let excluded = |name: &str| excluded.contains(&name);
    chosen(interfaces, &Selection { named: None, excluded: &excluded, attach: AttachChoice::Auto })
}

fn named(interfaces: &[Interface], names: &[&str], excluded: &[&str]) -> Vec<Plan> {
    let named = |name: &str| names.contains(&name);
    let excluded = |name: &str| excluded.contains(&name);
    chosen(
        interfaces,
        &Selection { named: Some(&named), excluded: &excluded, attach: AttachChoice::Auto },
    )
}

fn native_first() -> Plan {
    Plan::Guard { start: Start::Link, modes: vec![AttachMode::Native, AttachMode::Generic] }
}

fn generic(start: Start) -> Plan {
    Plan::Guard { start, modes: vec![AttachMode::Generic] }
}

fn skip_master(kind: &str, master: &str) -> Plan {
    Plan::Skip(Skip::CoveredByMaster { kind: kind.to_owned(), master: master.to_owned() })
}

fn skip_parent(kind: &str, parent: &str, door: &str) -> Plan {
    let [kind, parent, door] = [kind, parent, door].map(str::to_owned);
    Plan::Skip(Skip::CoveredByParent { kind, parent, door })
}

#[test]
fn the_arphrd_type_decides_where_a_frame_starts() {
    let known = [
        (ETHERNET, Start::Link),
        (512, Start::Network),
        (519, Start::Network),
        (768, Start::Network),
        (769, Start::Network),
        (776, Start::Network),
        (778, Start::Network),
        (823, Start::Network),
        (65534, Start::Network),
    ];
    for arphrd in 0..=u16::MAX {
        let expected = known.iter().find(|(number, _)| *number == arphrd).map(|(_, start)| *start);
        assert_eq!(device(1, "x0", "", arphrd).start(), expected, "ARPHRD {arphrd}");
    }
}

#[test]
fn real_cards_are_doors_native_first() {
    assert_eq!(automatic(&[card(2, "eth0")]), [native_first()]);
}

#[test]
fn loopback_is_left_alone() {
    assert_eq!(automatic(&[device(1, "lo", "", LOOPBACK)]), [Plan::Skip(Skip::Loopback)]);
}

#[test]
fn an_interface_that_is_down_is_no_door() {
    assert_eq!(automatic(&[down(card(2, "eth0"))]), [Plan::Skip(Skip::NotUp)]);
}

#[test]
fn an_unknown_arphrd_type_is_a_loud_skip_and_never_a_door() {
    let odd = [device(2, "ib0", "", INFINIBAND), device(3, "x0", "brandnew", 9999)];
    for plan in automatic(&odd).into_iter().chain(named(&odd, &["ib0", "x0"], &[])) {
        let Plan::Skip(skip) = plan else { panic!("guarded: {plan:?}") };
        assert!(skip.is_loud(), "{skip}");
    }
}

#[test]
fn plumbing_and_devices_that_receive_nothing_are_no_doors() {
    for kind in ["veth", "netkit", "bridge"] {
        let expected = Plan::Skip(Skip::ContainerPlumbing { kind: kind.to_owned() });
        assert_eq!(automatic(&[device(2, "x0", kind, ETHERNET)]), [expected]);
    }
    let silent = [
        ("dummy", ETHERNET),
        ("ifb", ETHERNET),
        ("nlmon", 824),
        ("vsockmon", 826),
        ("vrf", ETHERNET),
        ("vcan", 280),
        ("vxcan", 280),
    ];
    for (kind, arphrd) in silent {
        let expected = Plan::Skip(Skip::Silent { kind: kind.to_owned() });
        assert_eq!(automatic(&[device(2, "x0", kind, arphrd)]), [expected]);
    }
}

#[test]
fn tunnels_are_always_doors() {
    let tunnels = [
        ("tun", NONE, Start::Network),
        ("tun", ETHERNET, Start::Link),
        ("wireguard", NONE, Start::Network),
        ("vxlan", ETHERNET, Start::Link),
        ("vxlan", NONE, Start::Network),
        ("geneve", ETHERNET, Start::Link),
        ("ipip", 768, Start::Network),
        ("ip6tnl", 769, Start::Network),
        ("sit", 776, Start::Network),
        ("gretap", ETHERNET, Start::Link),
        ("ip6gre", 823, Start::Network),
        ("ip6gretap", ETHERNET, Start::Link),
        ("ppp", PPP, Start::Network),
        ("rmnet", 519, Start::Network),
        ("l2tpeth", ETHERNET, Start::Link),
    ];
    for (kind, arphrd, start) in tunnels {
        // What a tunnel is bound to does not cover it: the parent sees the outer packets.
        let interfaces = [card(2, "eth0"), on(device(3, "t0", kind, arphrd), 2)];
        assert_eq!(automatic(&interfaces)[1], generic(start), "{kind}");
        let mut on_bridge = device(3, "t0", kind, arphrd);
        on_bridge.master = Some(4);
        if (kind, arphrd) != ("tun", ETHERNET) {
            let interfaces = [device(4, "br0", "bridge", ETHERNET), on_bridge];
            assert_eq!(automatic(&interfaces)[1], generic(start), "{kind} on a bridge");
        }
    }
}

#[test]
fn tunnels_whose_frames_start_elsewhere_are_not_covered_loudly() {
    for (kind, arphrd) in [("gre", 778), ("vti", 768), ("vti6", 769), ("xfrm", NONE)] {
        let [plan] = automatic(&[device(2, "t0", kind, arphrd)]).try_into().unwrap();
        let Plan::Skip(skip) = plan else {
            panic!("{kind} would be a door that passes everything")
        };
        assert!(skip.is_loud(), "{kind}");
    }
}

#[test]
fn an_unknown_kind_with_ethernet_is_a_door() {
    for kind in ["brandnew", "macsec", "dsa", "openvswitch"] {
        let interfaces = [card(2, "eth0"), on(device(3, "x0", kind, ETHERNET), 2)];
        assert_eq!(automatic(&interfaces)[1], generic(Start::Link), "{kind}");
    }
}

#[test]
fn a_tap_is_a_door_unless_it_is_the_wire_of_a_virtual_machine() {
    let interfaces = [
        device(2, "br0", "bridge", ETHERNET),
        in_master(device(3, "tap0", "tun", ETHERNET), 2),
        device(4, "tap1", "tun", ETHERNET),
        device(5, "vrf0", "vrf", ETHERNET),
        in_master(device(6, "tap2", "tun", ETHERNET), 5),
    ];
    let plans = automatic(&interfaces);
    assert_eq!(plans[1], Plan::Skip(Skip::VirtualMachine { bridge: "br0".to_owned() }));
    assert_eq!(plans[2], generic(Start::Link));
    assert_eq!(plans[4], generic(Start::Link));
}

#[test]
fn the_cards_of_a_bridge_are_doors_and_the_bridge_is_not() {
    let interfaces =
        [device(2, "br0", "bridge", ETHERNET), in_master(card(3, "eth0"), 2), card(4, "eth1")];
    let plans = automatic(&interfaces);
    assert_eq!(plans[1..], [native_first(), native_first()]);
    assert_eq!(plans[0], Plan::Skip(Skip::ContainerPlumbing { kind: "bridge".to_owned() }));
}

#[test]
fn a_bond_or_team_is_guarded_instead_of_its_slaves() {
    for kind in ["bond", "team"] {
        let interfaces = [
            in_master(card(2, "eth0"), 4),
            in_master(device(3, "veth0", "veth", ETHERNET), 4),
            device(4, "agg0", kind, ETHERNET),
        ];
        let covered = skip_master(kind, "agg0");
        assert_eq!(automatic(&interfaces), [covered.clone(), covered, native_first()]);
    }
}

#[test]
fn the_slaves_of_a_bond_that_covers_nothing_are_judged_by_themselves() {
    let slave = in_master(card(2, "eth0"), 4);
    let bond = device(4, "bond0", "bond", ETHERNET);
    assert_eq!(automatic(&[slave.clone(), down(bond)])[0], native_first());
    assert_eq!(automatic(std::slice::from_ref(&slave)), [native_first()]);

    let odd =
        [in_master(device(2, "ib0", "", INFINIBAND), 4), device(4, "bond0", "bond", INFINIBAND)];
    let unknown = Plan::Skip(Skip::UnknownType { arphrd: INFINIBAND });
    assert_eq!(automatic(&odd), [unknown.clone(), unknown]);
}

#[test]
fn the_slaves_of_an_excluded_bond_are_not_filtered_and_say_so() {
    let interfaces = [in_master(card(2, "eth0"), 4), device(4, "bond0", "bond", ETHERNET)];
    let skip = Skip::MasterExcluded { kind: "bond".to_owned(), master: "bond0".to_owned() };
    assert!(skip.to_string().contains("not filtered"));
    assert_eq!(
        automatic_without(&interfaces, &["bond0"]),
        [Plan::Skip(skip), Plan::Skip(Skip::Excluded)]
    );
}

#[test]
fn the_parent_is_guarded_instead_of_what_stands_on_it() {
    for kind in ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"] {
        let interfaces = [card(2, "eth0"), on(device(3, "x0", kind, ETHERNET), 2)];
        assert_eq!(automatic(&interfaces), [native_first(), skip_parent(kind, "eth0", "eth0")]);
    }
}

#[test]
fn a_stack_names_the_door_at_its_foot() {
    let interfaces = [
        on(device(5, "mac0", "macvlan", ETHERNET), 4),
        on(device(4, "eth0.5.7", "vlan", ETHERNET), 3),
        on(device(3, "eth0.5", "vlan", ETHERNET), 2),
        card(2, "eth0"),
    ];
    assert_eq!(
        automatic(&interfaces),
        [
            skip_parent("macvlan", "eth0.5.7", "eth0"),
            skip_parent("vlan", "eth0.5", "eth0"),
            skip_parent("vlan", "eth0", "eth0"),
            native_first(),
        ]
    );
}

#[test]
fn what_stands_on_a_parent_that_covers_nothing_is_a_door_itself() {
    let vlan = on(device(3, "eth0.5", "vlan", ETHERNET), 2);
    let door = generic(Start::Link);

    let elsewhere = Interface { parent_is_here: false, ..vlan.clone() };
    assert_eq!(automatic(&[card(2, "eth0"), elsewhere])[1], door, "parent elsewhere");
    assert_eq!(
        automatic(std::slice::from_ref(&vlan)),
        std::slice::from_ref(&door),
        "parent not listed"
    );
    let orphan = Interface { parent: None, ..vlan.clone() };
    assert_eq!(automatic(&[card(2, "eth0"), orphan])[1], door, "no parent");
    let parent_down = [down(card(2, "eth0")), vlan.clone()];
    assert_eq!(automatic(&parent_down)[1], door, "parent down");
    let excluded = [card(2, "eth0"), vlan.clone()];
    assert_eq!(automatic_without(&excluded, &["eth0"])[1], door, "parent excluded");
    let odd = [device(2, "ib0", "", INFINIBAND), vlan.clone()];
    assert_eq!(automatic(&odd)[1], door, "parent of an unknown type");
    let slave = [in_master(card(2, "eth0"), 4), device(4, "bond0", "bond", ETHERNET), vlan];
    assert_eq!(automatic(&slave)[2], door, "parent is the slave of a bond");
}

#[test]
fn what_stands_on_a_bond_is_covered_by_the_bond() {
    let interfaces =
        [device(2, "bond0", "bond", ETHERNET), on(device(3, "bond0.5", "vlan", ETHERNET), 2)];
    assert_eq!(automatic(&interfaces)[1], skip_parent("vlan", "bond0", "bond0"));
}

#[test]
fn what_stands_on_plumbing_is_plumbing() {
    for kind in ["bridge", "veth", "dummy"] {
        let interfaces = [
            device(2, "base", kind, ETHERNET),
            on(device(3, "base.5", "vlan", ETHERNET), 2),
            on(device(4, "mac0", "macvlan", ETHERNET), 3),
        ];
        let skip = |kind: &str, parent: &str| {
            Plan::Skip(Skip::OnPlumbing { kind: kind.to_owned(), parent: parent.to_owned() })
        };
        assert_eq!(automatic(&interfaces)[1..], [skip("vlan", "base"), skip("macvlan", "base.5")]);
    }
}

#[test]
fn devices_that_stand_in_a_circle_or_too_deep_are_doors() {
    let circle = [
        on(device(2, "a", "vlan", ETHERNET), 3),
        on(device(3, "b", "vlan", ETHERNET), 2),
        on(device(4, "c", "vlan", ETHERNET), 4),
        in_master(device(5, "d", "bond", ETHERNET), 5),
        on(device(6, "e", "vlan", ETHERNET), 2),
    ];
    let plans = automatic(&circle);
    assert_eq!([&plans[..3], &plans[4..]].concat(), vec![generic(Start::Link); 4]);
    assert_eq!(plans[3], native_first());

    let mut tower = vec![card(1, "eth0")];
    tower.extend((2..=10).map(|n| on(device(n, &format!("v{n}"), "vlan", ETHERNET), n - 1)));
    let plans = automatic(&tower);
    assert_eq!(plans[8], skip_parent("vlan", "v8", "eth0"));
    assert_eq!(plans[9], generic(Start::Link));
}

#[test]
fn an_excluded_interface_is_a_visible_skip() {
    let interfaces = [card(2, "eth0"), card(3, "eth1")];
    let expected = [Plan::Skip(Skip::Excluded), native_first()];
    assert_eq!(automatic_without(&interfaces, &["eth0"]), expected);
}

#[test]
fn naming_chooses_exactly_those_whatever_they_are() {
    let interfaces = [
        card(2, "eth0"),
        down(device(3, "veth0", "veth", ETHERNET)),
        on(device(4, "eth0.5", "vlan", ETHERNET), 2),
        in_master(card(5, "eth1"), 6),
        device(6, "bond0", "bond", ETHERNET),
        device(7, "br0", "bridge", ETHERNET),
        in_master(device(8, "tap0", "tun", ETHERNET), 7),
        down(device(9, "wg0", "wireguard", NONE)),
    ];
    assert_eq!(
        named(&interfaces, &["veth0", "eth0.5", "eth1", "tap0", "wg0"], &[]),
        [
            Plan::Skip(Skip::NotChosen),
            generic(Start::Link),
            generic(Start::Link),
            native_first(),
            Plan::Skip(Skip::NotChosen),
            Plan::Skip(Skip::NotChosen),
            generic(Start::Link),
            generic(Start::Network),
        ]
    );
}

#[test]
fn excluding_wins_over_naming() {
    let interfaces = [card(2, "eth0"), card(3, "eth1")];
    assert_eq!(
        named(&interfaces, &["eth0", "eth1"], &["eth1"]),
        [native_first(), Plan::Skip(Skip::Excluded)]
    );
}

#[test]
fn loopback_by_name_is_refused_with_a_reason() {
    let interfaces = [device(1, "lo", "", LOOPBACK)];
    assert_eq!(named(&interfaces, &["lo"], &[]), [Plan::Skip(Skip::LoopbackRefused)]);
    assert!(Skip::LoopbackRefused.to_string().contains("cannot be guarded"));
    assert_eq!(loopback_named(&["lo", "l*", "eth0"], &interfaces), ["lo"]);
}

#[test]
fn the_attach_choice_decides_on_the_modes() {
    let interfaces = [
        card(2, "eth0"),
        device(3, "bond0", "bond", ETHERNET),
        device(4, "vx0", "vxlan", ETHERNET),
        device(5, "tun0", "tun", NONE),
        device(6, "wwan0", "", 519),
    ];
    let both = vec![AttachMode::Native, AttachMode::Generic];
    let generic = vec![AttachMode::Generic];
    let native = vec![AttachMode::Native];
    let cases = [
        (
            AttachChoice::Auto,
            [both.clone(), both, generic.clone(), generic.clone(), generic.clone()],
        ),
        (AttachChoice::Native, [(); 5].map(|()| native.clone())),
        (AttachChoice::Generic, [(); 5].map(|()| generic.clone())),
    ];
    for (attach, expected) in cases {
        let selection = Selection { named: None, excluded: &|_| false, attach };
        let modes: Vec<_> = chosen(&interfaces, &selection)
            .into_iter()
            .map(|plan| match plan {
                Plan::Guard { modes, .. } => modes,
                Plan::Skip(skip) => panic!("skipped: {skip}"),
            })
            .collect();
        assert_eq!(modes, expected, "{attach:?}");
    }
}

#[test]
fn a_name_that_no_interface_has_is_unmatched_and_a_pattern_never_is() {
    let interfaces = [card(2, "eth0")];
    assert_eq!(unmatched(&["eth0", "eth9", "wg*", "et?9", "e[a-z]h9"], &interfaces), ["eth9"]);
}

#[test]
fn every_interface_is_answered_for_in_order() {
    let interfaces = [device(1, "lo", "", LOOPBACK), card(9, "eth9"), card(2, "eth0")];
    let selection =
        Selection { named: None, excluded: &|_| false, attach: AttachChoice::default() };
    let doors = choose(&interfaces, &selection);
    assert!(doors.iter().map(|door| &door.interface).eq(&interfaces));
}
