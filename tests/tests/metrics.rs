//! What the daemon tells Prometheus and probes. What a real Prometheus makes of it:
//! `metrics/prometheus.rs`.

#[path = "metrics/prometheus.rs"]
mod prometheus;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use ollama_guard_common::{Mode, Reason, Verdict};
use ollama_guard_tests::{
    bed::{
        Answer, Bed, ForeignTc, Guard, GuardSetup, Place, SERVER_DOOR, SWITCH_TO_SERVER, TC_ACT_OK,
        Wire, fetch, get, prometheus_program, until, until_some,
    },
    packet::{ethernet, ipv4, ipv6, tcp},
    policy::{FRIEND4, GUARDED, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 9434;
/// What the daemon tells is a second old at most.
const AGE: Duration = Duration::from_millis(1100);

fn here(address: [u8; 4]) -> SocketAddr {
    (Ipv4Addr::from(address), PORT).into()
}

const HOME: [u8; 4] = [127, 0, 0, 1];

/// Asks the daemon.
fn ask(bed: &Bed, path: &str) -> Result<(u16, String)> {
    let page = fetch(&bed.server.namespace, here(HOME), path, "")?;
    Ok((page.status, page.body))
}

/// Every series with its value, by name and labels as they are written.
fn scrape(bed: &Bed) -> Result<BTreeMap<String, f64>> {
    let (status, text) = ask(bed, "/metrics")?;
    ensure!(status == 200, "{status}: {text}");
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    samples
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').context("a line without a value")?;
            Ok((series.to_owned(), value.parse()?))
        })
        .collect()
}

/// Knocks at the server's door that are counted under reasons of many kinds.
fn knock_of_all_kinds(bed: &Bed) -> Result<()> {
    let wire = Wire::open(&bed.switch, SWITCH_TO_SERVER)?;
    let knock = tcp(40_000, GUARDED);
    let v4 = |source| ipv4(source, SERVER4).carries(&knock);
    let nested = ipv6(STRANGER6, SERVER6).atomic_fragment().atomic_fragment().carries(&knock);
    for packet in [v4(FRIEND4), v4(STRANGER4), v4(Ipv4Addr::new(192, 0, 2, 66)), nested] {
        for _ in 0..3 {
            wire.send(&ethernet().carries_ip(&packet))?;
        }
    }
    Ok(())
}

/// All counts, as `status --json` has them.
fn counters(guard: &Guard<'_>) -> Result<BTreeMap<(&'static str, &'static str), u64>> {
    let status = guard.status()?;
    let reasons = Reason::ALL.iter().filter(|reason| **reason != Reason::NotGuarded);
    reasons
        .flat_map(|reason| Mode::ALL.map(|mode| (*reason, mode)))
        .map(|(reason, mode)| Ok(((reason.name(), mode.name()), status.counter(mode, reason)?)))
        .collect()
}

const fn verdict(reason: Reason, mode: Mode) -> &'static str {
    match (reason.verdict(), mode) {
        (Verdict::Pass, _) => "pass",
        (Verdict::Drop, Mode::Enforce) => "drop",
        (Verdict::Drop, Mode::Observe) => "would-drop",
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn metrics_say_what_status_says_and_no_count_is_lost_with_an_interface() -> Result<()> {
    let bed = Bed::new()?;
    let server = &bed.server.namespace;
    let guard = GuardSetup::of("door*")
        .attach("generic")
        .allow(FRIEND4)
        .deny("192.0.2.66")
        .start(server)?;
    // A second door, which goes again.
    server.ip(&["link", "add", "door1", "type", "veth", "peer", "name", "far1"])?;
    for end in ["door1", "far1"] {
        server.ip(&["link", "set", end, "up"])?;
    }
    until("the second door", PATIENCE, || {
        guard.status().is_ok_and(|s| s.door("door1").is_ok_and(|door| door.is_covered))
    })?;
    knock_of_all_kinds(&bed)?;
    let far = Wire::open(server, "far1")?;
    let stranger = ipv4(STRANGER4, SERVER4).carries(&tcp(40_000, GUARDED));
    for _ in 0..5 {
        far.send(&ethernet().carries_ip(&stranger))?;
    }
    until("all of it to be counted", PATIENCE, || {
        counters(&guard).is_ok_and(|counts| counts.values().sum::<u64>() >= 17)
    })?;
    thread::sleep(AGE);
    let (counted, scraped) = (counters(&guard)?, scrape(&bed)?);
    let series = |name: &str, labels: &str| {
        let series = format!("ollama_guard_{name}{labels}");
        scraped.get(&series).copied().with_context(|| format!("no {series} in {scraped:?}"))
    };
    for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::NotGuarded) {
        for mode in Mode::ALL {
            let (verdict, reason, mode) = (verdict(*reason, mode), reason.name(), mode.name());
            let labels = format!("{{verdict=\"{verdict}\",reason=\"{reason}\",mode=\"{mode}\"}}");
            let told = series("packets_total", &labels)?;
            assert_eq!(told as u64, counted[&(reason, mode)], "{labels}");
        }
    }
    let status = guard.status()?;
    let book = status.book(Mode::Enforce)?;
    let fate =
        |fate: &str| series("events_total", &format!("{{mode=\"enforce\",outcome=\"{fate}\"}}"));
    let told = [fate("submitted")?, fate("suppressed")?, fate("lost")?].map(|n| n as u64);
    assert_eq!(told, [book.submitted, book.suppressed, book.lost]);
    assert_eq!(told.iter().sum::<u64>(), book.dropped);
    let ring = [series("events_read_total", "")?, series("events_unread", "")?];
    assert_eq!((ring[0] as u64, ring[1] as u64), status.ring()?);
    assert_eq!(series("policy_generation", "")? as u64, status.generation()?);
    assert_eq!(series("prefixes", "{family=\"ipv4\"}")? as u64, status.prefixes()?.0);
    assert_eq!(series("prefix_capacity", "")? as u64, status.capacity()?);
    assert_eq!(series("rules", "{family=\"ipv4\",effect=\"deny\"}")?, 1.0);
    assert_eq!(series("enforcing", "")?, f64::from(u8::from(status.is_enforcing()?)));
    for door in status.doors()?.iter().filter(|door| door.is_covered) {
        assert_eq!(series("door_covered", &format!("{{interface=\"{}\"}}", door.name))?, 1.0);
    }
    let not_listed = |interface: &str| {
        format!(
            "{{interface=\"{interface}\",verdict=\"drop\",reason=\"not-listed\",mode=\"enforce\"}}"
        )
    };
    assert_eq!(series("interface_packets_total", &not_listed("door1"))?, 5.0);

    // The door goes, and while it does, nothing is told twice or not at all.
    let total = |scraped: &BTreeMap<String, f64>, name: &str| -> f64 {
        let of = |series: &&String| series.starts_with(&format!("ollama_guard_{name}{{"));
        scraped.iter().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
    };
    let before = total(&scraped, "packets_total");
    server.ip(&["link", "del", "door1"])?;
    let gone = format!("ollama_guard_interface_packets_total{}", not_listed("departed/other"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let scraped = scrape(&bed)?;
        assert!(total(&scraped, "packets_total") >= before, "{scraped:?}");
        assert_eq!(
            total(&scraped, "packets_total"),
            total(&scraped, "interface_packets_total"),
            "{scraped:?}"
        );
        if scraped.get(&gone) == Some(&5.0) {
            break;
        }
        ensure!(Instant::now() < deadline, "no {gone} in {scraped:?}");
        thread::sleep(Duration::from_millis(50));
    }
    let (_, text) = ask(&bed, "/metrics")?;
    assert!(!text.contains("interface=\"door1\""), "{text}");
    lint(&text)
}

/// By Prometheus' own reader of its older form, which also knows the good names of metrics.
fn lint(text: &str) -> Result<()> {
    let mut command = Command::new(prometheus_program("promtool")?);
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = command.spawn()?;
    promtool.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    let done = promtool.wait_with_output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success() && said.is_empty(), "{said}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn only_this_host_reaches_the_metrics_and_silent_clients_keep_nobody_out() -> Result<()> {
    let bed = Bed::new()?;
    let server = &bed.server.namespace;
    let guard = GuardSetup::of(SERVER_DOOR).attach("generic").start(server)?;
    for address in bed.friend.servers(PORT) {
        let answer = get(&bed.friend.namespace, address, "/metrics", PATIENCE)?;
        assert_eq!(answer, Answer::Refused, "{address}");
    }
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut stream = server.enter(|| TcpStream::connect(here(HOME)))??;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nX-Slow: ")?;
        silent.push(stream);
    }
    let pid = guard.pid().context("a daemon")?;
    let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
    let begun = Instant::now();
    for _ in 0..10 {
        assert!(scrape(&bed)?.contains_key("ollama_guard_enforcing"));
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let held = descriptors()?;
    let few = |count: usize| count < held - 20;
    // They are closed though they hold on.
    until("the silent clients to be closed", PATIENCE, || descriptors().is_ok_and(few))?;
    drop(silent);
    // Who asks for more than a page gets no more than that.
    let mut stream = server.enter(|| TcpStream::connect(here(HOME)))??;
    stream.write_all(&b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000)).ok();
    assert_eq!(ask(&bed, "/healthz")?, (200, "ok\n".into()));
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_port_that_is_taken_stops_nothing_and_another_address_is_followed() -> Result<()> {
    let bed = Bed::new()?;
    let server = &bed.server.namespace;
    let occupy = |address| server.enter(|| TcpListener::bind(here(address)));
    let answers = |address| fetch(server, here(address), "/healthz", "").is_ok();
    let config = |listen: &str| {
        format!(
            "interfaces = [\"{SERVER_DOOR}\"]\nattach = \"generic\"\n[metrics]\nlisten = \"{listen}\"\n"
        )
    };
    let squatter = occupy(HOME)??;
    let guard = GuardSetup::automatic().config(&config("127.0.0.1:9434")).start(server)?;
    let status = guard.cli(&["status"])?;
    // It guards, and that is what the exit status is about.
    assert!(status.succeeded() && status.stdout.starts_with("ENFORCING"), "{status:?}");
    assert!(status.stdout.contains("METRICS NOT SERVED: another program"), "{status:?}");
    assert!(guard.log().contains("METRICS ARE NOT SERVED"), "{}", guard.log());
    drop(squatter);
    until("the port to be had", PATIENCE, || answers(HOME))?;
    assert!(guard.done(&["status"])?.contains("http://127.0.0.1:9434/metrics"));

    let reload = |listen: &str| -> Result<String> {
        guard.write_config(&config(listen))?;
        guard.done(&["reload"])
    };
    let (second, third) = ([127, 0, 0, 2], [127, 0, 0, 3]);
    let said = reload("127.0.0.2:9434")?;
    assert!(said.contains("metrics: 127.0.0.1:9434 -> 127.0.0.2:9434"), "{said}");
    assert!(answers(second) && !answers(HOME));
    // One that can't be had: what was had goes on, until it can be.
    let squatter = occupy(third)??;
    let said = reload("127.0.0.3:9434")?;
    assert!(said.contains("another program listens at 127.0.0.3:9434"), "{said}");
    assert!(answers(second) && guard.done(&["status"])?.contains("METRICS NOT MOVED"));
    drop(squatter);
    until("the third address", PATIENCE, || answers(third) && !answers(second))?;
    // An address that others reach is taken, and warned of.
    let said = reload("0.0.0.0:9434")?;
    assert!(said.contains("nothing there needs a login"), "{said}");
    let friends = get(&bed.friend.namespace, (SERVER4, PORT).into(), "/healthz", PATIENCE)?;
    assert!(friends.is_served(), "{friends:?}");
    // Another port takes a restart, and is told again each time.
    for _ in 0..2 {
        let said = reload("0.0.0.0:9435")?;
        assert!(said.contains("metrics: 0.0.0.0:9434 -> 0.0.0.0:9435"), "{said}");
        assert!(said.contains("takes a restart") && answers(HOME), "{said}");
    }
    reload("off")?;
    assert!(!answers(HOME) && guard.done(&["status"])?.contains("metrics  off"));
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn probes_say_whether_the_daemon_lives_and_every_door_holds() -> Result<()> {
    let bed = Bed::new()?;
    let server = &bed.server.namespace;
    let config = |mode: &str| {
        format!(
            "mode = \"{mode}\"\ninterfaces = [\"door*\"]\nattach = \"native\"\n[[service]]\nallow = [\"{FRIEND4}\"]\n"
        )
    };
    let mut guard = GuardSetup::automatic().config(&config("enforce")).start(server)?;
    let ready = |wanted: u16, part: &str| {
        let what = format!("{wanted} and {part:?}");
        until_some(&what, PATIENCE, || {
            let (status, body) = ask(&bed, "/readyz").ok()?;
            (status == wanted && body.contains(part)).then_some(body)
        })
        .with_context(|| format!("it is {:?}", ask(&bed, "/readyz")))
    };
    assert_eq!(ready(200, "ok")?, "ok\n");
    assert!(guard.cli(&["verify"])?.succeeded());

    // Rejected: told, and what was in force before still holds.
    guard.write_config("mode = \"both\"\n")?;
    let body = ready(200, "CONFIGURATION REJECTED")?;
    assert!(body.starts_with("ok\n") && body.contains("\"both\" is not known"), "{body}");
    guard.write_config(&config("observe"))?;
    ready(503, "mode observe: what would be dropped is delivered")?;
    // In force first, and told then.
    until("nothing to be rejected any more", PATIENCE, || {
        ask(&bed, "/readyz").is_ok_and(|(_, body)| !body.contains("REJECTED"))
    })?;
    assert_eq!(ask(&bed, "/readyz?observe=ok")?.0, 200);
    guard.write_config(&config("enforce"))?;
    ready(200, "ok")?;

    // A bridge has no native XDP, so ours is at TCX; and somebody stands before ours.
    server.ip(&["link", "add", "door9", "type", "bridge"])?;
    server.ip(&["link", "set", "door9", "up"])?;
    until("the new door", PATIENCE, || {
        guard.status().is_ok_and(|s| s.door("door9").is_ok_and(|door| door.is_covered))
    })?;
    let foreign = ForeignTc::attach(server, "door9", TC_ACT_OK, Place::First)?;
    let reason = format!("door9 does not hold: program {} stands before", foreign.program_id()?);
    let body = ready(503, &reason)?;
    // The same check, and so the same answer.
    let verified = guard.cli(&["verify"])?;
    assert_eq!(verified.code, Some(1), "{verified:?}");
    for line in body.lines() {
        let sentence = line.trim_start_matches("door9 does not hold: ");
        assert!(verified.stdout.contains(sentence), "{line}: {}", verified.stdout);
    }
    assert_eq!(ask(&bed, "/healthz")?, (200, "ok\n".into()), "it lives all the same");
    drop(foreign);
    ready(200, "ok")?;

    // Probes in numbers cost little: within the same second they share one proof.
    let begun = Instant::now();
    for _ in 0..200 {
        assert_eq!(ask(&bed, "/readyz")?.0, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    guard.signal(Signal::SIGTERM)?;
    until("the end of the answers", PATIENCE, || ask(&bed, "/healthz").is_err())
}
