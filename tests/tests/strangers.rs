//! A toolbox that this project did not make: scanners, packet writers and IPv6 attack kits of other
//! authors, from Debian's packages. Each is shown to get answers from the port without a guard; with
//! it, on every way of guarding, nothing comes back, while a friend is served and so is everybody at
//! another port.
//!
//! Left out: fragroute, which Debian has no longer; nmap's `--badsum` and hping3's `-b`, whose wrong
//! checksums no kernel answers; hping3's source routes, which Linux refuses; the options of
//! ipv6toolkit's `tcp6` for extension headers, whose padding Linux refuses.
//!
//! Long because the whole toolbox is named here.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::programs::XdpMode;
use ollama_guard_tests::{
    bed::{
        Asker, Bed, CABLE_MTU, CLIENT_INTERFACE, Capture, Direction, Foreign, GuardSetup,
        Namespace, Pair, SERVER_DOOR, SERVER_MAC, SocatTun, Standin, XDP_PASS, get, run,
    },
    packet::{ends, ethernet},
    policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

/// Guarded, and nobody listens there: what a kernel answers to odd segments, it answers for closed
/// ports.
const CLOSED: u16 = 11_435;
/// A port that nobody guards.
const OTHER_PORT: u16 = 8_080;
/// How long a tool may take.
const TOOL_LIMIT: Duration = Duration::from_secs(60);
/// How long an answer may take to be seen.
const ON_ITS_WAY: Duration = Duration::from_millis(150);
/// How often a tool is tried without a guard.
const ATTEMPTS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(10);
/// Tools that run at the same time.
const HANDS: usize = 24;
/// A stranger in the server's own network, where thc-ipv6 looks for its neighbours.
const NEARBY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x66);
const SCAPY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/strangers/stacks.py");

/// A command line.
#[derive(Clone, Debug)]
struct Tool {
    words: Vec<String>,
    /// Whether it speaks IPv6.
    is_v6: bool,
    /// Whether it writes Ethernet headers itself, and cannot do without.
    needs_ethernet: bool,
    /// One of a row that is answered as a whole: a kernel does not answer every way past a filter.
    of_a_row: bool,
}

impl Tool {
    fn new(words: &str, is_v6: bool) -> Self {
        let words = words.split_whitespace().map(str::to_owned).collect();
        Self { words, is_v6, needs_ethernet: false, of_a_row: false }
    }

    const fn on_ethernet(mut self) -> Self {
        self.needs_ethernet = true;
        self
    }

    fn name(&self) -> String {
        self.words.join(" ")
    }

    /// Runs it to its end. What it thinks of the outcome is its own business.
    fn run(&self, namespace: &Namespace) -> Result<()> {
        let mut command = namespace.command(Path::new(&self.words[0]));
        run(command.args(&self.words[1..]), TOOL_LIMIT)?;
        Ok(())
    }
}

/// Everything, for an interface with Ethernet headers or without.
fn toolbox(interface: &str, has_ethernet: bool) -> Vec<Tool> {
    let mac = SERVER_MAC.map(|byte| format!("{byte:02x}")).join(":");
    let ports = format!("{GUARDED},{CLOSED}");
    let mut tools = Vec::new();
    let nmap = format!("nmap -n -Pn --max-retries 0 --max-rtt-timeout 300ms -p {ports}");
    for how in [
        "-sS",
        "-sA",
        "-sF",
        "-sX",
        "-sN",
        "-sW",
        "-sM",
        "-sT",
        "-sS -f",
        "-sS -ff",
        "-sS --mtu 8",
        "-sS -D 203.0.113.67,203.0.113.68,ME",
        "-sS --source-port 53",
        "-sS --data-length 200",
        "-sS --source-port 11434",
        "-sS --ip-options R",
        "-sS --ip-options T",
        "-sS --ttl 10",
    ] {
        tools.push(Tool::new(&format!("{nmap} {how} {SERVER4}"), false));
    }
    for how in ["-sS", "-sA", "-sF", "-sS --source-port 53", "-sS --data-length 200"] {
        tools.push(Tool::new(&format!("{nmap} -6 {how} {SERVER6}"), true));
    }
    let hping = format!("hping3 -n -q -c 2 -i u2000 -p {GUARDED}");
    for how in [
        "-S",
        "-A",
        "-A -X",
        "-S -f -d 100",
        "-S -f -m 8 -d 64",
        "-S -G",
        "-S -s 53 -k",
        "-S --tcp-timestamp",
        "-S -y -t 1",
        "-S -f -g 8",
        "-S --tos 10 -r",
    ] {
        tools.push(Tool::new(&format!("{hping} {how} {SERVER4}"), false));
    }
    let tcp6 = format!("tcp6 -i {interface} -d {SERVER6} -a {GUARDED}");
    for how in ["-X S", "-X A", "-X S -y 32", "-X S -o 53", "-X S -P 100"] {
        tools.push(Tool::new(&format!("{tcp6} {how}"), true).on_ethernet());
    }
    for how in ["-Q 0:0", "-Q 0:0,0:0,0:0", "-Q 7:0,3:0"] {
        // Its argument has no blanks, and is one word.
        let knock = format!("sp=1-3,dp={GUARDED},flags=syn");
        let ends = format!("-A {STRANGER4} -B {SERVER4} -b {mac}");
        let words = format!("mausezahn {interface} -c 1 -q {how} {ends} -t tcp {knock}");
        tools.push(Tool::new(&words, false).on_ethernet());
    }
    let mac = if has_ethernet { mac.as_str() } else { "" };
    for (source, server, is_v6) in [
        (STRANGER4.to_string(), SERVER4.to_string(), false),
        (STRANGER6.to_string(), SERVER6.to_string(), true),
    ] {
        let words = format!("/usr/bin/python3 {SCAPY} {interface} {mac} {source} {server}");
        tools.push(Tool::new(&words, is_v6));
    }
    // Its attempts to get past a filter, one by one; the further ones are of UDP or repeat these.
    for number in 1..=38 {
        let words = format!("atk6-firewall6 {interface} {SERVER6} {GUARDED} {number}");
        let mut tool = Tool::new(&words, true).on_ethernet();
        tool.of_a_row = true;
        tools.push(tool);
    }
    tools.retain(|tool| has_ethernet || !tool.needs_ethernet);
    tools
}

/// Whether a frame comes from a guarded port, to somebody who is no friend.
fn is_answer(frame: &[u8]) -> bool {
    ends(frame).is_some_and(|ends| {
        let is_friend = [IpAddr::from(FRIEND4), FRIEND6.into()].contains(&ends.destination.ip());
        let server = [IpAddr::from(SERVER4), SERVER6.into()];
        server.contains(&ends.source.ip())
            && ends.protocol == 6
            && [GUARDED, CLOSED].contains(&ends.source.port())
            && !is_friend
    })
}

/// Where strangers stand, and what they hear.
struct Place<'bed> {
    name: &'static str,
    v4: &'bed Namespace,
    v6: &'bed Namespace,
    /// Bytes before a packet on [`CLIENT_INTERFACE`], if it is a tunnel that is listened to.
    overhead: Option<usize>,
    tools: Vec<Tool>,
    /// Friends at the guarded port, and strangers at another one.
    served: Vec<(Asker<'bed>, SocketAddr)>,
}

impl<'bed> Place<'bed> {
    fn stranger(&self, tool: &Tool) -> &'bed Namespace {
        if tool.is_v6 { self.v6 } else { self.v4 }
    }

    fn listen(&self, namespace: &Namespace) -> Result<Capture> {
        let overhead = self.overhead;
        Capture::start(namespace, CLIENT_INTERFACE, move |frame, direction| {
            direction == Direction::In
                && match overhead {
                    None => is_answer(frame),
                    Some(bytes) => frame.get(bytes..).is_some_and(|packet| {
                        matches!(packet.first().map(|byte| byte >> 4), Some(4 | 6))
                            && is_answer(&ethernet().carries_ip(packet))
                    }),
                }
        })
    }

    /// The contrast: every tool works, and gets answers.
    fn everyone_is_answered(&self) -> Result<()> {
        let (row, single): (Vec<&Tool>, Vec<_>) = self.tools.iter().partition(|tool| tool.of_a_row);
        for tool in single {
            let mut is_answered = false;
            // A tunnel of user space may lose a fragment: what counts here is that the tool works.
            for _ in 0..ATTEMPTS {
                let heard = self.listen(self.stranger(tool))?;
                tool.run(self.stranger(tool))?;
                thread::sleep(ON_ITS_WAY);
                is_answered = heard.stop().count > 0;
                if is_answered {
                    break;
                }
            }
            let name = tool.name();
            ensure!(is_answered, "{}: no answer without a guard to: {name}", self.name);
        }
        if !row.is_empty() {
            let heard = self.listen(self.v6)?;
            self.all_at_once(&row)?;
            let count = heard.stop().count;
            ensure!(count >= 10, "{}: without a guard only {count} answers to the row", self.name);
        }
        Ok(())
    }

    /// With a guard: nothing comes back, whatever they do, and nobody else is the worse for it.
    fn nobody_is_answered(&self) -> Result<()> {
        let heard = [self.listen(self.v4)?, self.listen(self.v6)?];
        let is_over = AtomicBool::new(false);
        let rounds = thread::scope(|scope| -> Result<usize> {
            let ordinary = scope.spawn(|| self.ordinary_traffic(&is_over));
            let tools: Vec<&Tool> = self.tools.iter().collect();
            let worked = self.all_at_once(&tools);
            is_over.store(true, Ordering::Relaxed);
            let rounds = ordinary.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            worked.and(rounds)
        })?;
        ensure!(rounds > 0, "{}: nobody else has asked anything", self.name);
        thread::sleep(ON_ITS_WAY);
        for heard in heard {
            let heard = heard.stop();
            let first = heard.frames.first().and_then(|frame| ends(frame));
            ensure!(heard.count == 0, "{}: {} answers, first {first:?}", self.name, heard.count);
        }
        Ok(())
    }

    /// Asks until the end, and says how often.
    fn ordinary_traffic(&self, is_over: &AtomicBool) -> Result<usize> {
        let mut rounds = 0;
        while !is_over.load(Ordering::Relaxed) || rounds == 0 {
            for (asker, server) in &self.served {
                let answer = get(*asker, *server, "/", PATIENCE)?;
                ensure!(answer.is_served(), "{}: {asker:?} at {server} got {answer:?}", self.name);
            }
            rounds += 1;
            thread::sleep(ON_ITS_WAY);
        }
        Ok(rounds)
    }

    fn all_at_once(&self, tools: &[&Tool]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let failed: Mutex<Vec<anyhow::Error>> = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..HANDS {
                scope.spawn(|| {
                    while let Some(tool) = tools.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = tool.run(self.stranger(tool)) {
                            let error = error.context(tool.name());
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(error);
                        }
                    }
                });
            }
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.into_iter().next().map_or(Ok(()), Err)
    }
}

fn guard_for_the_friend(setup: GuardSetup) -> GuardSetup {
    let ports = [GUARDED, CLOSED].map(|port| format!("{port}/tcp"));
    let setup = setup.arguments(&["--port", &ports[0], "--port", &ports[1]]);
    setup.allow(FRIEND4).allow(FRIEND6)
}

fn standins(server: &Namespace) -> Result<[Standin; 2]> {
    Ok([Standin::start_in(server, GUARDED)?, Standin::start_in(server, OTHER_PORT)?])
}

/// On an Ethernet: native, generic, and at TC ingress behind a foreign program.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_strangers_toolbox_finds_no_answer_on_an_ethernet() -> Result<()> {
    let bed = Bed::new()?;
    let server = &bed.server.namespace;
    let _standins = standins(server)?;
    let nearby = format!("{NEARBY6}/64");
    let add = ["address", "add", &nearby, "dev", CLIENT_INTERFACE, "nodad"];
    bed.stranger6.namespace.ip(&add)?;
    let friend = &bed.friend.namespace;
    let served = vec![
        (friend.into(), (SERVER4, GUARDED).into()),
        (friend.into(), (SERVER6, GUARDED).into()),
        ((&bed.stranger4.namespace).into(), (SERVER4, OTHER_PORT).into()),
        ((&bed.stranger6.namespace).into(), (SERVER6, OTHER_PORT).into()),
    ];
    let (v4, v6) = (&bed.stranger4.namespace, &bed.stranger6.namespace);
    let tools = toolbox(CLIENT_INTERFACE, true);
    let mut place = Place { name: "no guard", v4, v6, overhead: None, tools, served };
    place.everyone_is_answered()?;
    for (name, attach, hook) in
        [("native", "native", "xdp"), ("generic", "generic", "xdp"), ("TCX", "auto", "tcx")]
    {
        let behind = (hook == "tcx")
            .then(|| Foreign::attach(server, SERVER_DOOR, XDP_PASS, XdpMode::Skb))
            .transpose()?;
        let setup = guard_for_the_friend(GuardSetup::of(SERVER_DOOR).attach(attach));
        let guard = setup.start(server)?;
        let door = guard.status()?.door(SERVER_DOOR)?;
        ensure!(door.is_covered && door.hook.as_deref() == Some(hook), "{name}: {door:?}");
        place.name = name;
        place.nobody_is_answered()?;
        drop((guard, behind));
    }
    Ok(())
}

/// On a device without Ethernet headers, with the tools that can do without.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_strangers_toolbox_finds_no_answer_on_a_tun_device() -> Result<()> {
    const TUN: &str = SocatTun::NAME;
    let pair = Pair::new(CABLE_MTU)?;
    let _tun = SocatTun::lay_over(&pair)?;
    let (server, client) = (&pair.server, &pair.client);
    let _standins = standins(server)?;
    let whole = |address: IpAddr| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
    for (own, peers) in [
        (IpAddr::from(SERVER4), [IpAddr::from(STRANGER4), FRIEND4.into()]),
        (SERVER6.into(), [STRANGER6.into(), FRIEND6.into()]),
    ] {
        server.ip(&["address", "add", &whole(own), "dev", TUN])?;
        for peer in peers {
            client.ip(&["address", "add", &whole(peer), "dev", TUN])?;
            server.ip(&["route", "add", &whole(peer), "dev", TUN])?;
        }
        // Whoever does not choose is the stranger.
        let stranger = peers[0].to_string();
        client.ip(&["route", "add", &whole(own), "dev", TUN, "src", &stranger])?;
    }
    let served = vec![
        (Asker::with_address(client, FRIEND4), (SERVER4, GUARDED).into()),
        (Asker::with_address(client, FRIEND6), (SERVER6, GUARDED).into()),
        (client.into(), (SERVER4, OTHER_PORT).into()),
        (client.into(), (SERVER6, OTHER_PORT).into()),
    ];
    let (v4, v6) = (client, client);
    let overhead = Some(SocatTun::OVERHEAD);
    let tools = toolbox(TUN, false);
    let mut place = Place { name: "no guard on tun", v4, v6, overhead, tools, served };
    place.everyone_is_answered()?;
    let guard = guard_for_the_friend(GuardSetup::of(TUN)).start(server)?;
    let door = guard.status()?.door(TUN)?;
    ensure!(door.is_covered && door.attach.as_deref() == Some("generic"), "{door:?}");
    place.name = "tun";
    place.nobody_is_answered().context("on the tun device")
}
