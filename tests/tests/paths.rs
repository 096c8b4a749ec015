//! What each kind of packet costs the program: instructions and map accesses, against a record, and that
//! the program gives it the right verdict on a machine that is not the kernel.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use ipnet::IpNet;
use ollama_guard_tests::{
    bench::{
        feeder::{XDP_DROP, XDP_PASS},
        lists::{self, Kind},
        program::rules,
    },
    packet::{Tpid, ethernet, ipv4, ipv6, tcp, udp},
    paths::{
        Path, Record,
        program::{IFINDEX, machine},
    },
    policy::{GUARDED, SERVER4, SERVER6},
};

/// Set to print the record instead of comparing with it.
const RECORDING: &str = "OLLAMA_GUARD_RECORD_PATHS";

/// The kinds of packets: what it is, the frame, and the verdict.
type Packets = Vec<(String, Vec<u8>, u32)>;

fn knock4(source: Ipv4Addr) -> Vec<u8> {
    ethernet().carries_ip(&ipv4(source, SERVER4).carries(&tcp(40_000, GUARDED)))
}

fn knock6(source: Ipv6Addr) -> Vec<u8> {
    ethernet().carries_ip(&ipv6(source, SERVER6).carries(&tcp(40_000, GUARDED)))
}

fn bystanders() -> Packets {
    let (source4, source6) =
        (Ipv4Addr::new(65, 1, 2, 3), Ipv6Addr::new(0x2a00, 1, 2, 3, 4, 5, 6, 7));
    let https = ipv4(source4, SERVER4).carries(&tcp(40_000, 443));
    let mdns = ipv6(source6, SERVER6).carries(&udp(5353, 5353));
    vec![
        ("bystander, TCP 443, IPv4".into(), ethernet().carries_ip(&https), XDP_PASS),
        ("bystander, UDP 5353, IPv6".into(), ethernet().carries_ip(&mdns), XDP_PASS),
        (
            "bystander, TCP 443, IPv4 in a VLAN".into(),
            ethernet().tag(Tpid::Customer, 42).carries_ip(&https),
            XDP_PASS,
        ),
    ]
}

/// Packets of each kind: some sources are told from the rules sooner than others.
const PACKETS: usize = 500;

#[test]
#[ignore = "needs the kernel program: cargo xtask test"]
fn no_packet_costs_much_more_than_recorded() -> Result<()> {
    let mut found = Record::default();
    let allow = rules(Kind::Prefixes, 1_000);
    let mut machine = machine(&allow, &[])?;
    let mut run = |frame: &[u8], verdict: u32| -> Result<Path> {
        let (returned, path) = machine.run(frame, IFINDEX)?;
        ensure!(returned == verdict, "it returns {returned}, not {verdict}: {frame:?}");
        Ok(path)
    };
    for (what, frame, verdict) in bystanders() {
        found.0.insert(what, run(&frame, verdict)?);
    }
    for (who, is_friend) in [("stranger", false), ("friend", true)] {
        for is_v6 in [false, true] {
            let sources = if is_friend {
                lists::friends(&allow, is_v6)
            } else {
                lists::strangers(&allow, is_v6)
            };
            let verdict = if is_friend { XDP_PASS } else { XDP_DROP };
            let mut paths = Vec::new();
            for source in sources.iter().take(PACKETS) {
                let frame = if is_v6 {
                    knock6(source.address.into())
                } else {
                    let [a, b, c, d, ..] = source.address;
                    knock4(Ipv4Addr::new(a, b, c, d))
                };
                paths.push(run(&frame, verdict)?);
            }
            paths.sort_by_key(|path| path.instructions);
            let family = if is_v6 { "IPv6" } else { "IPv4" };
            for (which, place) in [("usual", PACKETS / 2), ("longest", PACKETS - 1)] {
                found.0.insert(format!("{who}, {family}, the {which}"), paths[place].clone());
            }
        }
    }
    for (what, path) in &found.0 {
        println!("path: {}", Record::line(what, path));
    }
    if std::env::var_os(RECORDING).is_some() {
        println!("nothing is compared: {RECORDING} is set");
        return Ok(());
    }
    let grown = Record::committed()?.grown(&found);
    ensure!(
        grown.is_empty(),
        "{}\nIf that is meant, put what this test prints into tests/paths.txt, and say why in the commit",
        grown.join("\n")
    );
    Ok(())
}

/// The machine itself: it tells friends from strangers and enemies, and counts what a door counts.
#[test]
#[ignore = "needs the kernel program: cargo xtask test"]
fn the_machine_gives_the_verdicts_of_the_rules() -> Result<()> {
    let net = |text: &str| -> Result<IpNet> { Ok(text.parse()?) };
    let (allow, deny) = ([net("65.0.0.0/8")?, net("2a00::/16")?], [net("65.1.0.0/16")?]);
    let mut machine = machine(&allow, &deny)?;
    for (source, verdict) in
        [("65.2.0.1", XDP_PASS), ("65.1.0.1", XDP_DROP), ("66.0.0.1", XDP_DROP)]
    {
        let frame = knock4(source.parse()?);
        assert_eq!(machine.run(&frame, IFINDEX)?.0, verdict, "{source}");
        // The careful way: an option of four bytes.
        let mut longer = frame.clone();
        longer[14] = 0x46;
        longer.splice(34..34, [1, 1, 1, 1]);
        assert_eq!(machine.run(&longer, IFINDEX)?.0, verdict, "{source} with options");
    }
    for (source, verdict) in [("2a00::1", XDP_PASS), ("2a01::1", XDP_DROP)] {
        assert_eq!(machine.run(&knock6(source.parse()?), IFINDEX)?.0, verdict, "{source}");
    }
    Ok(())
}
