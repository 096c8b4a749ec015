//! A flood of SYNs from ever other sources through a cable, and the processor time of the whole path for
//! each: sender and receiver share a processor, so what a contender takes above bare `XDP_DROP` is its own.
//!
//! The sender is a program of the benchmark's, run on live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`).

use std::{fmt::Write as _, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, TestRun as _, TestRunOptions,
    programs::{TestRunAttrs, XdpMode, xdp::XdpLinkId},
};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use ollama_guard::dataplane::{AttachMode, Outcome};
use ollama_guard_common::bench::Source;
use tempfile::TempDir;

use super::{
    Options,
    feeder::{self, Packet, thread_time},
    lists::{self, Kind},
    plot::Bars,
    program::{guard, knock, rules},
    report::{Report, Table},
    summary::Summary,
    xdp_filter,
};
use crate::{
    bed::{CABLE_MTU, CLIENT_INTERFACE, Namespace, Pair, SERVER_DOOR, run},
    loaded::Loaded,
    packet::overwritten,
    policy::GUARDED,
};

/// Frames of a call. Preparing one takes some 20 ms, so that a call is to be long.
const FRAMES: u32 = 1 << 17;
/// Frames that the kernel sends at a time.
const BATCH: u32 = 64;
const LIMIT: Duration = Duration::from_secs(60);

/// Who drops the flood.
struct Contender {
    name: String,
    kind: Means,
    rounds: Vec<f64>,
}

enum Means {
    /// A program of the benchmark's.
    Bare(XdpMode),
    Guard(Box<Loaded>, AttachMode),
    /// Commands in the receiver's namespace: to start, and to end.
    Commands(Vec<String>, Vec<String>),
}

impl Contender {
    fn new(name: impl Into<String>, kind: Means) -> Self {
        Self { name: name.into(), kind, rounds: Vec::new() }
    }
}

/// What is attached, if it is a bare program.
type Attached = Option<XdpLinkId>;

/// Measures the flood.
///
/// # Errors
///
/// If the bed fails, or a contender can't be set up.
pub fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    let object = feeder::object()?;
    let sizes: &[usize] = if options.quick { &[1_000] } else { &[1_000, 100_000, 1_000_000] };
    for is_v6 in [false, true] {
        let family = if is_v6 { "IPv6" } else { "IPv4" };
        say(&format!("flood: {family}"));
        let pair = Pair::new(CABLE_MTU)?;
        // The receive path of others as on a network card: without this a veth has none of its own.
        let gro = ["-K", SERVER_DOOR, "gro", "on"];
        pair.server.run("ethtool", &gro, LIMIT)?.expect_success()?;
        let scripts = tempfile::tempdir()?;
        let mut contenders = vec![Contender::new("bare XDP_DROP", Means::Bare(XdpMode::Driver))];
        for &count in sizes {
            let loaded = Box::new(guard(&rules(Kind::Prefixes, count))?);
            let name = format!("ollama-guard, {count} prefixes");
            contenders.push(Contender::new(name, Means::Guard(loaded, AttachMode::Native)));
        }
        contenders.push(Contender::new("bare XDP_DROP, generic", Means::Bare(XdpMode::Skb)));
        let loaded = Box::new(guard(&rules(Kind::Prefixes, 1_000))?);
        let name = "ollama-guard, 1000 prefixes, generic";
        contenders.push(Contender::new(name, Means::Guard(loaded, AttachMode::Generic)));
        contenders.extend(others(is_v6, &scripts)?);

        // Strangers to the largest list are strangers to all.
        let largest = sizes.last().copied().unwrap_or(1_000);
        let packet = addressed(&pair, knock(is_v6))?;
        let listed: Vec<IpNet> = [
            rules(Kind::Prefixes, largest),
            rules(Kind::Prefixes, 1_000),
            rules(Kind::Hosts, 2_000),
        ]
        .concat();
        let mut sources = lists::strangers(&listed, is_v6);
        if !is_v6 {
            sources.iter_mut().for_each(|source| set_checksum(source, &packet.frame));
        }
        let ifindex = pair.client.enter(|| if_nametoindex(CLIENT_INTERFACE))??;
        let mut sender = feeder::load(&object, &packet, &sources, ifindex)?;
        feeder::program(&mut sender, "flood")?;
        let mut bare = feeder::load(&object, &packet, &[], 0)?;
        feeder::program(&mut bare, "bare_drop")?;

        for round in 0..options.rounds() {
            for place in 0..contenders.len() {
                let place = if round % 2 == 0 { place } else { contenders.len() - 1 - place };
                let contender = &mut contenders[place];
                let name = contender.name.clone();
                let attached =
                    up(&pair.server, contender, &mut bare).with_context(|| name.clone())?;
                let spent = pair.client.enter(|| flood(&mut sender, &packet))?;
                down(&pair.server, contender, &mut bare, attached).with_context(|| name)?;
                contender.rounds.push(spent?);
            }
        }
        tell(&contenders, family, report);
    }
    Ok(())
}

fn tell(contenders: &[Contender], family: &str, report: &mut Report) {
    let rounds = |name: &str| contenders.iter().find(|one| one.name == name).map(|one| &one.rounds);
    let (Some(bare), Some(generic)) = (rounds("bare XDP_DROP"), rounds("bare XDP_DROP, generic"))
    else {
        return;
    };
    let mut rows = Vec::new();
    for contender in contenders {
        let ratio = Summary::ratio(&contender.rounds, bare);
        rows.push(vec![
            contender.name.clone(),
            format!("{:.0}", Summary::of(&contender.rounds)),
            format!("{:.0}", Summary::above(&contender.rounds, bare)),
            format!("{ratio:.2}"),
        ]);
        for (count, limit) in [(1_000, 1.05), (100_000, 1.10), (1_000_000, 1.30)] {
            if contender.name == format!("ollama-guard, {count} prefixes") {
                let what = format!("drop, flood, {family}, {count} prefixes, ratio to bare");
                report.at_most(what, limit, ratio.median);
            }
        }
        if contender.name == "ollama-guard, 1000 prefixes, generic" {
            let ratio = Summary::ratio(&contender.rounds, generic).median;
            let what =
                format!("drop, flood, {family}, generic, 1000 prefixes, ratio to bare generic");
            report.at_most(what, 1.05, ratio);
        }
    }
    if let (Some(ours), Some(nft)) =
        (rounds("ollama-guard, 1000 prefixes"), rounds("nft netdev ingress, hash set"))
    {
        let ratio = Summary::ratio(ours, nft).median;
        report.at_most(
            format!("drop, flood, {family}, ratio to nft netdev, hash set"),
            0.30,
            ratio,
        );
    }
    let middle = |one: &Contender| (one.name.clone(), Summary::of(&one.rounds).median);
    report.bars.push(Bars {
        title: format!("A dropped SYN of a flood, {family}: processor time, sender included"),
        rows: contenders.iter().map(middle).collect(),
    });
    report.tables.push(Table {
        title: format!("The flood: {family}"),
        note: "Nanoseconds of processor time for each dropped SYN, sender and receiver together, median \
               and quartiles; 131,072 sources, none of them listed. Sets of others hold 1,000 entries."
            .into(),
        head: ["who drops", "ns a packet", "above bare", "ratio to bare"].map(String::from).to_vec(),
        rows,
    });
}

/// One call of the sender. Nanoseconds for each frame.
///
/// # Errors
///
/// If the kernel refuses.
pub fn flood(sender: &mut Ebpf, packet: &Packet) -> Result<f64> {
    let program = feeder::program(sender, "flood")?;
    let send = |repeat| -> Result<()> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(&packet.frame);
        options.repeat = repeat;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        program.test_run(options)?;
        Ok(())
    };
    send(1 << 13)?;
    let before = thread_time()?;
    send(FRAMES)?;
    Ok((thread_time()? - before) / f64::from(FRAMES))
}

fn up(server: &Namespace, contender: &mut Contender, bare: &mut Ebpf) -> Result<Attached> {
    match &mut contender.kind {
        Means::Bare(mode) => {
            let (program, mode) = (feeder::program(bare, "bare_drop")?, *mode);
            Ok(Some(server.enter(|| program.attach(SERVER_DOOR, mode))??))
        }
        Means::Guard(loaded, mode) => {
            let outcome: Outcome = loaded.attach(server, SERVER_DOOR, &[*mode])??;
            ensure!(outcome.mode == Some(*mode), "it is not {mode:?}");
            Ok(None)
        }
        Means::Commands(start, _) => {
            commands(server, start)?;
            Ok(None)
        }
    }
}

fn down(
    server: &Namespace,
    contender: &mut Contender,
    bare: &mut Ebpf,
    attached: Attached,
) -> Result<()> {
    match (&mut contender.kind, attached) {
        (Means::Guard(loaded, _), _) => loaded.release(server, SERVER_DOOR),
        (Means::Commands(_, end), _) => commands(server, end),
        (Means::Bare(_), Some(link)) => Ok(feeder::program(bare, "bare_drop")?.detach(link)?),
        (Means::Bare(_), None) => Ok(()),
    }
}

/// Runs commands in the server's namespace, one after the other.
///
/// # Errors
///
/// If one fails.
pub fn commands(server: &Namespace, list: &[String]) -> Result<()> {
    for line in list {
        run(server.command("sh").args(["-c", line]), LIMIT)?.expect_success()?;
    }
    Ok(())
}

/// The same packet for the server's end of the cable, so that a stack would take it.
///
/// # Errors
///
/// If the bed fails.
pub fn addressed(pair: &Pair, packet: Packet) -> Result<Packet> {
    let text = pair.server.run("ip", &["-j", "link", "show", SERVER_DOOR], LIMIT)?;
    let links: serde_json::Value = serde_json::from_str(text.expect_success()?)?;
    let address = links[0]["address"].as_str().context("no address")?;
    let bytes = address
        .split(':')
        .map(|byte| Ok(u8::from_str_radix(byte, 16)?))
        .collect::<Result<Vec<u8>>>()?;
    Ok(Packet { frame: overwritten(&packet.frame, 0, &bytes), ..packet })
}

/// The checksum of the IPv4 header behind an Ethernet header, with another source (RFC 1071).
pub fn set_checksum(source: &mut Source, frame: &[u8]) {
    let mut header = [0; 20];
    header.copy_from_slice(&frame[14..34]);
    header[10..12].fill(0);
    header[12..16].copy_from_slice(&source.address[..4]);
    let words = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    source.checksum = (!(sum as u16)).to_be_bytes();
}

/// What people would use instead, from Debian's packages.
fn others(is_v6: bool, scripts: &TempDir) -> Result<Vec<Contender>> {
    let hosts: Vec<IpNet> =
        rules(Kind::Hosts, 2_000).into_iter().filter(|net| net.addr().is_ipv6() == is_v6).collect();
    let nets: Vec<IpNet> = rules(Kind::Prefixes, 2_000)
        .into_iter()
        .filter(|net| net.addr().is_ipv6() == is_v6)
        .collect();
    let mut list = Vec::new();
    for (name, family, hook, nets, interval) in [
        ("nft netdev ingress, hash set", "netdev", true, &hosts, false),
        ("nft inet input, hash set", "inet", false, &hosts, false),
        ("nft netdev ingress, interval set", "netdev", true, &nets, true),
        ("nft inet input, interval set", "inet", false, &nets, true),
    ] {
        let hook = if hook {
            format!("ingress device {SERVER_DOOR} priority 0")
        } else {
            "input priority 0".to_owned()
        };
        let path = scripts.path().join(format!("{}.nft", name.replace([' ', ','], "-")));
        fs::write(&path, nft(family, &hook, nets, is_v6, interval))?;
        let start = vec![format!("nft -f {}", path.display())];
        let end = vec![format!("nft delete table {family} bench")];
        list.push(Contender::new(name, Means::Commands(start, end)));
    }
    let path = scripts.path().join("ipset");
    let (family, iptables) = if is_v6 { ("inet6", "ip6tables") } else { ("inet", "iptables") };
    let mut script = format!("create bench hash:net family {family} maxelem 65536\n");
    for net in &nets {
        writeln!(script, "add bench {net}")?;
    }
    fs::write(&path, script)?;
    let rule = format!(
        "PREROUTING -t raw -p tcp --dport {GUARDED} -m set ! --match-set bench src -j DROP"
    );
    let start =
        vec![format!("ipset restore -f {}", path.display()), format!("{iptables} -A {rule}")];
    let end = vec![format!("{iptables} -D {rule}"), "ipset destroy bench".into()];
    list.push(Contender::new("iptables raw, ipset hash:net", Means::Commands(start, end)));
    let (start, end) = (vec![xdp_filter::start()], vec![xdp_filter::end()]);
    list.push(Contender::new(xdp_filter::NAME, Means::Commands(start, end)));
    Ok(list)
}

/// A table of nftables that drops all others' packets to the guarded port.
#[must_use]
pub fn nft(family: &str, hook: &str, nets: &[IpNet], is_v6: bool, interval: bool) -> String {
    let (kind, protocol) = if is_v6 { ("ipv6_addr", "ip6") } else { ("ipv4_addr", "ip") };
    let element = |net: &IpNet| if interval { net.to_string() } else { net.addr().to_string() };
    let elements = nets.iter().map(element).collect::<Vec<_>>().join(", ");
    // Some of the networks are within others.
    let flags = if interval { "flags interval; auto-merge;" } else { "" };
    format!(
        "table {family} bench {{\n  set listed {{ type {kind}; {flags} elements = {{ {elements} }} }}\n  \
         chain filter {{ type filter hook {hook}; policy accept;\n    \
         tcp dport {GUARDED} {protocol} saddr != @listed drop\n  }}\n}}\n"
    )
}
