//! `scope = "local"`: a host that routes or bridges closes its own door, and not its guests'.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use ollama_guard_common::{Mode, Reason};
use ollama_guard_tests::{
    bed::{Answer, Guard, GuardSetup, Namespace, Standin, get, until},
    policy::GUARDED,
};

const PATIENCE: Duration = Duration::from_secs(10);
const SERVED: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(1300);

const HOST: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 1)),
];

/// A stranger outside, a host in the middle with the door, and a guest behind it.
struct Way {
    outside: Namespace,
    host: Namespace,
    guest: Namespace,
    guest_addresses: [IpAddr; 2],
}

impl Way {
    /// The cables: `eth0` outside to `door0`, `in0` to the guest's `eth0`.
    fn cables(number: usize) -> Result<[Namespace; 3]> {
        let [outside, host, guest] = [
            Namespace::new(number, "outside")?,
            Namespace::new(number, "host")?,
            Namespace::new(number, "guest")?,
        ];
        for (port, end) in [("door0", &outside), ("in0", &guest)] {
            let peer = end.name();
            host.ip(&["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", peer])?;
            host.ip(&["link", "set", port, "up"])?;
            end.ip(&["link", "set", "eth0", "up"])?;
        }
        add(&outside, "eth0", &["203.0.113.66/24", "2001:db8:bad::66/64"])?;
        Ok([outside, host, guest])
    }

    /// The host routes between two networks.
    fn routed() -> Result<Self> {
        let [outside, host, guest] = Self::cables(9_001)?;
        host.enter(|| -> Result<()> {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            Ok(fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?)
        })??;
        add(&host, "door0", &["203.0.113.1/24", "2001:db8:bad::1/64"])?;
        add(&host, "in0", &["198.51.100.1/24", "2001:db8:7::1/64"])?;
        add(&guest, "eth0", &["198.51.100.2/24", "2001:db8:7::2/64"])?;
        for (namespace, gateways) in [
            (&outside, ["203.0.113.1", "2001:db8:bad::1"]),
            (&guest, ["198.51.100.1", "2001:db8:7::1"]),
        ] {
            for gateway in gateways {
                namespace.ip(&["route", "add", "default", "via", gateway])?;
            }
        }
        let guest_addresses = ["198.51.100.2".parse()?, "2001:db8:7::2".parse()?];
        Self { outside, host, guest, guest_addresses }.open()
    }

    /// The host bridges one network.
    fn bridged(number: usize) -> Result<Self> {
        let [outside, host, guest] = Self::cables(number)?;
        host.ip(&["link", "add", "br0", "type", "bridge", "mcast_snooping", "0"])?;
        host.ip(&["link", "set", "br0", "up"])?;
        for port in ["door0", "in0"] {
            host.ip(&["link", "set", port, "master", "br0"])?;
        }
        add(&host, "br0", &["203.0.113.1/24", "2001:db8:bad::1/64"])?;
        add(&guest, "eth0", &["203.0.113.2/24", "2001:db8:bad::2/64"])?;
        let guest_addresses = ["203.0.113.2".parse()?, "2001:db8:bad::2".parse()?];
        Self { outside, host, guest, guest_addresses }.open()
    }

    /// Waits until everything is reached from outside.
    fn open(self) -> Result<Self> {
        for address in self.guest_addresses.into_iter().chain(HOST) {
            until(&format!("the way to {address}"), PATIENCE, || {
                let closed = SocketAddr::from((address, 9));
                let patience = Duration::from_millis(300);
                matches!(get(&self.outside, closed, "/", patience), Ok(Answer::Refused))
            })?;
        }
        Ok(self)
    }

    fn is_served(&self, address: IpAddr, patience: Duration) -> Result<bool> {
        let answer = get(&self.outside, SocketAddr::from((address, GUARDED)), "/", patience)?;
        ensure!(
            answer.is_served() || answer == Answer::NoAnswer,
            "{address}: {answer:?} is neither"
        );
        Ok(answer.is_served())
    }

    /// The host is closed to the stranger, in both families.
    fn host_is_closed(&self) -> Result<()> {
        for address in HOST {
            ensure!(!self.is_served(address, SILENCE)?, "the host answers at {address}");
        }
        Ok(())
    }

    fn guest_is_open(&self, is_open: bool) -> Result<()> {
        for address in self.guest_addresses {
            let patience = if is_open { SERVED } else { SILENCE };
            ensure!(
                self.is_served(address, patience)? == is_open,
                "the guest at {address} is not as it should be, which is open: {is_open}"
            );
        }
        Ok(())
    }
}

fn add(namespace: &Namespace, interface: &str, addresses: &[&str]) -> Result<()> {
    for address in addresses {
        let flags = if address.contains(':') { &["nodad"][..] } else { &[] };
        namespace.ip(&[&["address", "add", address, "dev", interface], flags].concat())?;
    }
    Ok(())
}

fn guard(attach: &str, scope: &str) -> GuardSetup {
    GuardSetup::of("door0").attach(attach).allow("192.0.2.10").arguments(&["--scope", scope])
}

fn passed_by(guard: &Guard<'_>) -> Result<u64> {
    guard.status()?.counter(Mode::Enforce, Reason::NotForThisHost)
}

fn keeps_only_the_host(way: &Way, attach: &str) -> Result<()> {
    let _guests = Standin::start_in(&way.guest, GUARDED)?;
    let _hosts = Standin::start_in(&way.host, GUARDED)?;
    {
        let guard = guard(attach, "local").start(&way.host)?;
        way.host_is_closed()?;
        way.guest_is_open(true)?;
        assert!(passed_by(&guard)? > 0, "the guest's packets are counted under their own reason");
        let proof = guard.root_cli(&["verify", "--live"])?;
        assert_eq!(proof.code, Some(0), "{proof:?}");
        let explained = guard.cli(&["explain", "203.0.113.66"])?;
        assert!(explained.stdout.contains("DROP (not-listed)"), "{explained:?}");
    }
    let guard = guard(attach, "all").start(&way.host)?;
    way.host_is_closed()?;
    way.guest_is_open(false)?;
    assert_eq!(passed_by(&guard)?, 0);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_router_closes_its_own_door_and_not_its_guests() -> Result<()> {
    keeps_only_the_host(&Way::routed()?, "generic")
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_bridge_closes_its_own_door_and_not_its_guests() -> Result<()> {
    keeps_only_the_host(&Way::bridged(9_002)?, "native")
}

/// What the host was given a second ago is guarded, and one that was taken and given back always was.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_new_address_is_closed_within_a_second() -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(1);
    let way = Way::bridged(9_003)?;
    let _hosts = Standin::start_in(&way.host, GUARDED)?;
    let mut guard = guard("generic", "local").start(&way.host)?;
    for address in ["203.0.113.9", "2001:db8:bad::9"] {
        let length = if address.contains(':') { 64 } else { 24 };
        let prefix = format!("{address}/{length}");
        add(&way.host, "br0", &[&prefix])?;
        let given = Instant::now();
        thread::sleep(LIMIT.saturating_sub(given.elapsed()));
        let address: IpAddr = address.parse()?;
        ensure!(!way.is_served(address, SILENCE)?, "{address} is open after {LIMIT:?}");
        // Known from before: closed from the first packet on.
        for _ in 0..3 {
            way.host.ip(&["address", "del", &prefix, "dev", "br0"])?;
            thread::sleep(Duration::from_millis(200));
            add(&way.host, "br0", &[&prefix])?;
            ensure!(!way.is_served(address, Duration::from_millis(400))?, "{address} is open");
        }
    }
    // Without a daemon nobody sees a new one, and `verify` says so.
    assert_eq!(guard.cli(&["verify"])?.code, Some(0));
    guard.kill9()?;
    assert_eq!(guard.cli(&["verify"])?.code, Some(0));
    add(&way.host, "br0", &["203.0.113.7/24"])?;
    let proof = guard.cli(&["verify"])?;
    assert_eq!(proof.code, Some(1), "{proof:?}");
    assert!(proof.stdout.contains("these addresses of this host: 203.0.113.7;"), "{proof:?}");
    Ok(())
}

/// More addresses than the kernel's table holds: then everybody's packets are decided on, loudly.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn with_too_many_addresses_nothing_is_left_out() -> Result<()> {
    let way = Way::bridged(9_004)?;
    let _guests = Standin::start_in(&way.guest, GUARDED)?;
    let guard = guard("generic", "local").start(&way.host)?;
    way.guest_is_open(true)?;
    let mut batch = String::new();
    for number in 0..8_192_u32 {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number);
        writeln!(batch, "address add {address}/32 dev lo")?;
    }
    let file = guard.file("addresses");
    fs::write(&file, batch)?;
    way.host.ip(&["-batch", &file.to_string_lossy()])?;
    until("scope all to be in force", PATIENCE, || way.guest_is_open(false).is_ok())?;
    let status = guard.cli(&["status"])?;
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(status.stdout.contains("addresses, and 8192 fit"), "{status:?}");
    way.host.ip(&["address", "flush", "dev", "lo"])?;
    until("scope local to be in force again", PATIENCE, || way.guest_is_open(true).is_ok())?;
    assert_eq!(guard.cli(&["status"])?.code, Some(0));
    Ok(())
}
