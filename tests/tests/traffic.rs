//! The main job on real packets: strangers get nothing, friends are served, and everything else
//! is left alone. Seen by clients and by captures.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use ollama_guard_common::Mode;
use ollama_guard_tests::{
    bed::{
        Answer, Bed, CLIENT_INTERFACE, Capture, Direction, Finished, Guard, GuardSetup, Host,
        SERVER_DOOR, Standin, download, everyone_is_served, get, only_the_friend_is_served, post,
    },
    packet::ends,
    policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, STRANGER4, STRANGER6},
};

const PATIENCE: Duration = Duration::from_secs(10);
/// Every way of attaching that a veth has.
const MODES: [&str; 2] = ["native", "generic"];

fn guard_for_the_friend<'bed>(bed: &'bed Bed, attach: &str) -> Result<Guard<'bed>> {
    GuardSetup::of(SERVER_DOOR)
        .attach(attach)
        .allow(FRIEND4)
        .allow(FRIEND6)
        .start(&bed.server.namespace)
}

/// Everything that leaves the server's guarded port towards a stranger, at the server's door, and
/// everything that arrives from it at the strangers'.
struct Ears {
    captures: Vec<Capture>,
}

impl Ears {
    fn open(bed: &Bed) -> Result<Self> {
        let is_from_the_port = |frame: &[u8], wanted: fn(IpAddr) -> bool| {
            ends(frame)
                .is_some_and(|ends| ends.source.port() == GUARDED && wanted(ends.destination.ip()))
        };
        let is_stranger = |address: IpAddr| address == STRANGER4 || address == STRANGER6;
        let at = |host: &Host, interface, direction| {
            Capture::start(&host.namespace, interface, move |frame, seen| {
                seen == direction && is_from_the_port(frame, is_stranger)
            })
        };
        Ok(Self {
            captures: vec![
                at(&bed.server, SERVER_DOOR, Direction::Out)?,
                at(&bed.stranger4, CLIENT_INTERFACE, Direction::In)?,
                at(&bed.stranger6, CLIENT_INTERFACE, Direction::In)?,
            ],
        })
    }

    fn heard(self) -> u64 {
        self.captures.into_iter().map(|capture| capture.stop().count).sum()
    }
}

fn curl(client: &Host, server: SocketAddr) -> Result<Finished> {
    let url = format!("http://{server}/");
    let arguments = ["--silent", "--show-error", "--globoff", "--max-time", "2", &url];
    client.namespace.run("curl", &arguments, PATIENCE).context("`curl` is needed")
}

/// What `nmap -sS -Pn` says of the guarded port.
fn nmap(client: &Host, server: SocketAddr) -> Result<String> {
    let (port, address) = (server.port().to_string(), server.ip().to_string());
    let mut arguments = vec!["-sS", "-Pn", "-n", "--max-retries", "1", "-p", &port, "-oG", "-"];
    if server.is_ipv6() {
        arguments.push("-6");
    }
    arguments.push(&address);
    let finished = client
        .namespace
        .run("nmap", &arguments, Duration::from_secs(60))
        .context("`nmap` is needed")?;
    let output = finished.expect_success()?;
    let state = output
        .lines()
        .find_map(|line| line.split_once("Ports: "))
        .and_then(|(_, ports)| ports.split('/').nth(1))
        .with_context(|| format!("nmap says nothing of the port:\n{output}"))?;
    Ok(state.to_owned())
}

/// What a person would try from outside.
fn strangers_get_nothing_by_curl_and_nmap(bed: &Bed) -> Result<()> {
    for stranger in [&bed.stranger4, &bed.stranger6] {
        for server in stranger.servers(GUARDED) {
            let finished = curl(stranger, server)?;
            // 28: timed out. 7 would be a refusal, which is an answer.
            assert_eq!((finished.code, finished.stdout.as_str()), (Some(28), ""), "{server}");
            assert_eq!(nmap(stranger, server)?, "filtered", "{server}");
        }
    }
    for server in bed.friend.servers(GUARDED) {
        assert_eq!(curl(&bed.friend, server)?.expect_success()?, "Ollama is running");
    }
    Ok(())
}

/// The contrast: `curl` and `nmap` tell silence from a refusal.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn curl_and_nmap_tell_silence_from_a_refusal() -> Result<()> {
    let bed = Bed::new()?;
    let server = SocketAddr::from((SERVER4, GUARDED));
    assert_eq!(nmap(&bed.stranger4, server)?, "closed");
    assert_eq!(curl(&bed.stranger4, server)?.code, Some(7), "refused");
    bed.server.namespace.ip(&["route", "add", "blackhole", &format!("{STRANGER4}/32")])?;
    assert_eq!(nmap(&bed.stranger4, server)?, "filtered");
    assert_eq!(curl(&bed.stranger4, server)?.code, Some(28), "timed out");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn strangers_get_nothing_and_the_friend_is_served_also_after_kill_9() -> Result<()> {
    for mode in MODES {
        let bed = Bed::new()?;
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
        everyone_is_served(&bed)?;
        for stranger in [&bed.stranger4, &bed.stranger6] {
            for server in stranger.servers(GUARDED) {
                assert_eq!(nmap(stranger, server)?, "open", "without a guard, {server}");
            }
        }
        let mut guard = guard_for_the_friend(&bed, mode)?;
        assert_eq!(guard.status()?.door(SERVER_DOOR)?.attach.as_deref(), Some(mode));
        let ears = Ears::open(&bed)?;
        only_the_friend_is_served(&bed)?;
        strangers_get_nothing_by_curl_and_nmap(&bed)?;
        guard.kill9()?;
        only_the_friend_is_served(&bed)?;
        strangers_get_nothing_by_curl_and_nmap(&bed)?;
        assert_eq!(ears.heard(), 0, "packets from port {GUARDED} to strangers, {mode}");
        // The contrast: it was the guard.
        drop(guard);
        everyone_is_served(&bed)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_closed_guarded_port_does_not_answer_a_stranger_either() -> Result<()> {
    for mode in MODES {
        let bed = Bed::new()?;
        let _guard = guard_for_the_friend(&bed, mode)?;
        let ears = Ears::open(&bed)?;
        for client in bed.clients() {
            for server in client.servers(GUARDED) {
                let answer = get(&client.namespace, server, "/", Duration::from_secs(1))?;
                let is_friend = client.mac == bed.friend.mac;
                let expected = if is_friend { Answer::Refused } else { Answer::NoAnswer };
                assert_eq!(answer, expected, "{server}, {mode}");
            }
        }
        assert_eq!(ears.heard(), 0);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_friend_uses_the_whole_api_through_the_guard() -> Result<()> {
    for mode in MODES {
        let bed = Bed::new()?;
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
        let _guard = guard_for_the_friend(&bed, mode)?;
        let friend = &bed.friend.namespace;
        for server in bed.friend.servers(GUARDED) {
            for path in ["/", "/api/version", "/api/tags"] {
                let answer = get(friend, server, path, PATIENCE)?;
                assert!(answer.is_served(), "{path} from {server}, {mode}: {answer:?}");
            }
            let request = r#"{"model":"standin","prompt":"Who is there?"}"#;
            let answer = post(friend, server, "/api/generate", request, PATIENCE)?;
            assert!(answer.is_served(), "a stream from {server}, {mode}: {answer:?}");
            download(friend, server, 20_000_000, PATIENCE)?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn observing_drops_nothing_and_counts_what_it_would_have() -> Result<()> {
    for mode in MODES {
        let bed = Bed::new()?;
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
        let guard = GuardSetup::of(SERVER_DOOR)
            .attach(mode)
            .arguments(&["--observe"])
            .start(&bed.server.namespace)?;
        everyone_is_served(&bed)?;
        let status = guard.status()?;
        assert_eq!(status.mode()?, "observe");
        assert!(status.drops(Mode::Observe)?.values().sum::<u64>() > 0);
        assert_eq!(status.drops(Mode::Enforce)?.values().sum::<u64>(), 0);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_segment_is_judged_not_only_the_first() -> Result<()> {
    for mode in MODES {
        let bed = Bed::new()?;
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
        let guard = GuardSetup::of(SERVER_DOOR).attach(mode).start(&bed.server.namespace)?;
        let stranger = STRANGER4.to_string();
        guard.done(&["allow", "add", &stranger])?;
        let server = SocketAddr::from((SERVER4, GUARDED));
        let client = &bed.stranger4.namespace;
        assert!(get(client, server, "/", PATIENCE)?.is_served());
        // A download under way stalls when its source leaves the list.
        let is_stalled = std::thread::scope(|scope| -> Result<bool> {
            let download =
                scope.spawn(|| download(client, server, 4_000_000_000, Duration::from_secs(4)));
            let bytes = Capture::start(client, CLIENT_INTERFACE, |frame, direction| {
                direction == Direction::In && frame.len() > 1000
            })?;
            bytes.wait_for(100, PATIENCE)?;
            guard.done(&["allow", "remove", &stranger])?;
            Ok(download.join().expect("no panic").is_err())
        })?;
        assert!(is_stalled, "{mode}: the download went on");
    }
    Ok(())
}
