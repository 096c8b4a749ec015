//! The program alone: processor time for each packet, by `BPF_PROG_TEST_RUN`.
//!
//! A feeder gives each packet another source and calls the program. The same feeder in front of a
//! program that drops, or passes, and does nothing else is what is subtracted.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::{LpmTrie, lpm_trie::Key},
    programs::{ProgramFd, Xdp},
};
use aya_obj::programs::XdpAttachType;
use ipnet::IpNet;
use ollama_guard_common::{Mode, Protocol};

use super::{
    Options,
    feeder::{self, Entry, Feeder, Packet, XDP_DROP, XDP_PASS},
    flood::commands,
    lists::{self, Kind},
    report::{Report, Table},
    summary::Summary,
    xdp_filter,
};
use crate::{
    bed::{CABLE_MTU, Pair},
    loaded::{Loaded, Variant},
    packet::{Tpid, ethernet, ipv4, ipv6, tcp, udp},
    policy::{GUARDED, HostPolicy, SERVER4, SERVER6},
};

/// How long a run takes, in milliseconds.
const RUN: f64 = 20.0;

const NOBODY4: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const NOBODY6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

/// A SYN to the guarded port.
#[must_use]
pub fn knock(is_v6: bool) -> Packet {
    let frame = if is_v6 {
        ethernet().carries_ip(&ipv6(NOBODY6, SERVER6).carries(&tcp(40_000, GUARDED)))
    } else {
        ethernet().carries_ip(&ipv4(NOBODY4, SERVER4).carries(&tcp(40_000, GUARDED)))
    };
    Packet { frame, source_at: if is_v6 { 22 } else { 26 }, is_v6 }
}

/// Packets of others: to other ports.
fn bystanders() -> [(&'static str, Packet); 3] {
    let https = ipv4(NOBODY4, SERVER4).carries(&tcp(40_000, 443));
    let mdns = ipv6(NOBODY6, SERVER6).carries(&udp(5353, 5353));
    let plain = |frame, source_at, is_v6| Packet { frame, source_at, is_v6 };
    [
        ("TCP 443, IPv4", plain(ethernet().carries_ip(&https), 26, false)),
        ("UDP 5353, IPv6", plain(ethernet().carries_ip(&mdns), 22, true)),
        (
            "TCP 443, IPv4 in a VLAN",
            plain(ethernet().tag(Tpid::Customer, 42).carries_ip(&https), 30, false),
        ),
    ]
}

/// A policy of these rules for the guarded port.
#[must_use]
pub fn allowing(rules: &[IpNet]) -> HostPolicy {
    let ports = vec![(Protocol::Tcp, GUARDED)];
    HostPolicy { ports, allow: rules.to_vec(), ..HostPolicy::default() }
}

/// So many rules, half of each family; of a single one each family has its own.
#[must_use]
pub fn rules(kind: Kind, count: usize) -> Vec<IpNet> {
    let half = (count / 2).max(1);
    let v4 = lists::v4(kind, half).into_iter().map(IpNet::from);
    v4.chain(lists::v6(kind, half).into_iter().map(IpNet::from)).collect()
}

/// The guard's program with these rules.
///
/// # Errors
///
/// If the kernel refuses.
pub fn guard(rules: &[IpNet]) -> Result<Loaded> {
    let mut loaded = Loaded::of(Variant::Usual, (rules.len() as u32).max(65_536))?;
    loaded.apply(&allowing(rules), Mode::Enforce)?;
    Ok(loaded)
}

/// The program with the kernel's LPM tries, with these rules.
fn lpm(object: &[u8], rules: &[IpNet]) -> Result<Ebpf> {
    let mut loaded = feeder::load(object, &knock(false), &[], 0)?;
    let map = loaded.map_mut("OG_LPM_V4").context("no map OG_LPM_V4")?;
    let mut v4: LpmTrie<_, [u8; 4], u32> = map.try_into()?;
    for net in rules {
        if let IpNet::V4(net) = net {
            let length = u32::from(net.prefix_len());
            v4.insert(&Key::new(length, net.addr().octets()), 1, 0)?;
        }
    }
    let map = loaded.map_mut("OG_LPM_V6").context("no map OG_LPM_V6")?;
    let mut v6: LpmTrie<_, [u8; 16], u32> = map.try_into()?;
    for net in rules {
        if let IpNet::V6(net) = net {
            let length = u32::from(net.prefix_len());
            v6.insert(&Key::new(length, net.addr().octets()), 1, 0)?;
        }
    }
    Ok(loaded)
}

/// Measures programs in turn, every other round backwards, all of which give packets this verdict.
/// Returns the rounds of each.
fn in_turn<const N: usize>(
    mut feeder: Feeder,
    programs: [&ProgramFd; N],
    verdict: u32,
    rounds: usize,
) -> Result<[Vec<f64>; N]> {
    let mut packets = [0; N];
    for (packets, program) in packets.iter_mut().zip(programs) {
        feeder.aim_at(program)?;
        *packets = feeder.calibrate(RUN, verdict)?;
    }
    let mut found = std::array::from_fn(|_| Vec::with_capacity(rounds));
    for round in 0..rounds {
        for place in 0..N {
            let place = if round % 2 == 0 { place } else { N - 1 - place };
            feeder.aim_at(programs[place])?;
            found[place].push(feeder.run(packets[place])?);
        }
    }
    Ok(found)
}

/// Measures the program.
///
/// # Errors
///
/// If the kernel refuses, or a packet gets a wrong verdict.
pub fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    let object = feeder::object()?;
    say("program: bystanders");
    bystander_table(options, &object, report)?;
    let mut rows = Vec::new();
    for &count in options.sizes() {
        for kind in [Kind::Hosts, Kind::Prefixes] {
            if count == 1 && kind == Kind::Prefixes {
                continue;
            }
            say(&format!("program: {count} {}", kind.name()));
            rows.extend(knocks(options, &object, kind, count, report)?);
        }
    }
    report.tables.push(Table {
        title: "The program: packets to the guarded port".into(),
        note: "Nanoseconds above a program that does nothing, median and quartiles. Half of the rules \
               are IPv4, half IPv6; 131,072 different sources. LPM is a program that does nothing but \
               look up in the kernel's LPM tries."
            .into(),
        head: ["rules", "packet", "ollama-guard", "LPM", "ratio"].map(String::from).to_vec(),
        rows,
    });
    Ok(())
}

fn bystander_table(options: &Options, object: &[u8], report: &mut Report) -> Result<()> {
    let loaded = guard(&rules(Kind::Hosts, 1_000))?;
    let program = Xdp::from_pin(loaded.pin("link"), XdpAttachType::Interface)?;
    let pair = Pair::new(CABLE_MTU)?;
    commands(&pair.server, &[xdp_filter::start()])?;
    let filter = xdp_filter::program(&pair.server)?;
    let mut rows = Vec::new();
    for (what, packet) in bystanders() {
        let sources = lists::strangers(&[], packet.is_v6);
        let feeder = Feeder::new(object, &packet, &sources, Entry::Buffers)?;
        let mut bare = feeder::load(object, &packet, &[], 0)?;
        let bare = feeder::program(&mut bare, "bare_pass")?;
        let programs = [bare.fd()?, program.fd()?];
        let [bare, ours] = in_turn(feeder, programs, XDP_PASS, options.rounds())?;
        let above = Summary::above(&ours, &bare);
        let goal = format!("bystander, program: {what}, ns above bare");
        report.at_most(goal, 3.0, above.median);

        let feeder = Feeder::new(object, &packet, &sources, Entry::OneBuffer)?;
        let mut bare_one = feeder::load(object, &packet, &[], 0)?;
        let bare_one = feeder::program(&mut bare_one, "bare_pass_one")?;
        let programs = [bare_one.fd()?, &filter];
        let [bare_one, filter] = in_turn(feeder, programs, XDP_PASS, options.rounds())?;
        let filter = Summary::above(&filter, &bare_one);
        let goal = format!("bystander, program: {what}, ratio to xdp-filter");
        report.at_most(goal, 0.05, above.median / filter.median);
        rows.push(vec![
            what.into(),
            format!("{:.1}", Summary::of(&bare)),
            format!("{above:.1}"),
            format!("{filter:.1}"),
        ]);
    }
    report.tables.push(Table {
        title: "The program: packets that are none of its business".into(),
        note: "Nanoseconds; 1,000 rules. The first column is a program that passes everything, its feeder \
               included; the others what the guard's program and that of xdp-filter, with all of its features, \
               take above it."
            .into(),
        head: ["packet", "bare XDP_PASS", "ollama-guard above it", "xdp-filter above it"]
            .map(String::from)
            .to_vec(),
        rows,
    });
    Ok(())
}

/// Strangers and friends of both families against one list.
fn knocks(
    options: &Options,
    object: &[u8],
    kind: Kind,
    count: usize,
    report: &mut Report,
) -> Result<Vec<Vec<String>>> {
    let rules = rules(kind, count);
    let loaded = guard(&rules)?;
    let ours = Xdp::from_pin(loaded.pin("link"), XdpAttachType::Interface)?;
    let mut lpm = lpm(object, &rules)?;
    let lpm = feeder::program(&mut lpm, "lpm")?;
    let mut rows = Vec::new();
    for (what, is_v6, is_friend) in [
        ("stranger, IPv4", false, false),
        ("stranger, IPv6", true, false),
        ("friend, IPv4", false, true),
        ("friend, IPv6", true, true),
    ] {
        let packet = knock(is_v6);
        let sources =
            if is_friend { lists::friends(&rules, is_v6) } else { lists::strangers(&rules, is_v6) };
        let feeder = Feeder::new(object, &packet, &sources, Entry::Buffers)?;
        let mut bare = feeder::load(object, &packet, &[], 0)?;
        let (name, verdict) =
            if is_friend { ("bare_pass", XDP_PASS) } else { ("bare_drop", XDP_DROP) };
        let bare = feeder::program(&mut bare, name)?;
        let programs = [bare.fd()?, ours.fd()?, lpm.fd()?];
        let [bare, ours, lpm] = in_turn(feeder, programs, verdict, options.rounds())?;
        let (ours, lpm) = (Summary::above(&ours, &bare), Summary::above(&lpm, &bare));
        ensure!(lpm.median > 0.0, "an LPM lookup takes no time: nothing was measured");
        let ratio = ours.median / lpm.median;
        let list = format!("{count} {}", kind.name());
        let limit = match (is_friend, kind, count, is_v6) {
            (true, _, 1_000, false) => Some(0.15),
            (true, _, 100_000, false) => Some(0.2),
            (true, Kind::Prefixes, 1_000, true) => Some(0.5),
            (true, Kind::Prefixes, 100_000, true) => Some(0.33),
            _ => None,
        };
        if let Some(limit) = limit {
            report.at_most(format!("{what}, {list}, ratio to LPM"), limit, ratio);
        }
        rows.push(vec![
            list,
            what.into(),
            format!("{ours:.1}"),
            format!("{lpm:.1}"),
            format!("{ratio:.2}"),
        ]);
    }
    Ok(rows)
}
