//! The bed itself: what the other tests stand on.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Result;
use ollama_guard_tests::{
    bed::{
        Answer, Bed, CLIENT_INTERFACE, Capture, Direction, Flood, GREETING, Namespace, SERVER_DOOR,
        SWITCH_TO_SERVER, Standin, Wire, download, get, post, reap, run, start,
    },
    packet::{ends, icmp, ipv4, tcp},
    policy::{GUARDED, SERVER4, STRANGER4},
};

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_client_reaches_the_server_over_ipv4_and_ipv6() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut asked = 0;
    for client in bed.clients() {
        for server in client.servers(GUARDED) {
            let answer = get(&client.namespace, server, "/", PATIENCE)?;
            assert_eq!(answer, Answer::Served(GREETING.into()), "{server}");
            asked += 1;
        }
    }
    assert_eq!(asked, 4, "the friend in both families, each stranger in one");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_standin_answers_like_ollama() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let client = &bed.friend.namespace;
    for server in bed.friend.servers(GUARDED) {
        for (path, part) in [("/api/version", "version"), ("/api/tags", "models")] {
            let Answer::Served(body) = get(client, server, path, PATIENCE)? else {
                panic!("{path} is not served");
            };
            let body: serde_json::Value = serde_json::from_slice(&body)?;
            assert!(body.get(part).is_some(), "{path}: {body}");
        }
        assert_eq!(get(client, server, "/nothing", PATIENCE)?, Answer::Status(404));
        let request = r#"{"model":"standin","prompt":"Who is there?"}"#;
        let Answer::Served(body) = post(client, server, "/api/generate", request, PATIENCE)? else {
            panic!("no stream");
        };
        let body = String::from_utf8(body)?;
        assert_eq!(body.matches("\"response\"").count(), 6, "{body}");
        assert!(body.contains("\"done\":true"), "{body}");
        download(client, server, 20_000_000, PATIENCE)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_client_tells_refused_from_silent() -> Result<()> {
    let bed = Bed::new()?;
    let closed = SocketAddr::from((SERVER4, GUARDED));
    let patience = Duration::from_millis(300);
    assert_eq!(get(&bed.friend.namespace, closed, "/", patience)?, Answer::Refused);
    bed.server.namespace.ip(&["route", "add", "blackhole", "192.0.2.10/32"])?;
    assert_eq!(get(&bed.friend.namespace, closed, "/", patience)?, Answer::NoAnswer);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_capture_hears_what_is_sent_and_what_comes_back() -> Result<()> {
    let bed = Bed::new()?;
    let stranger = &bed.stranger4;
    let knock = ipv4(STRANGER4, SERVER4).carries(&tcp(40_001, GUARDED));
    let is_answer = |frame: &[u8], direction| {
        direction == Direction::In
            && ends(frame).is_some_and(|ends| ends.source == (SERVER4, GUARDED).into())
    };
    let is_knock = |frame: &[u8], direction| {
        direction == Direction::In
            && ends(frame).is_some_and(|ends| ends.destination == (SERVER4, GUARDED).into())
    };
    let arrived = Capture::start(&bed.server.namespace, SERVER_DOOR, is_knock)?;
    let answered = Capture::start(&stranger.namespace, CLIENT_INTERFACE, is_answer)?;
    let wire = Wire::open(&stranger.namespace, CLIENT_INTERFACE)?;
    wire.send(&stranger.ethernet().carries_ip(&knock))?;
    arrived.wait_for(1, PATIENCE)?;
    // A closed port answers by RST.
    answered.wait_for(1, PATIENCE)?;
    let frames = arrived.stop().frames;
    assert_eq!(frames, [stranger.ethernet().carries_ip(&knock)]);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_packets_of_the_builder_are_good_enough_for_a_real_stack() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let host = &bed.stranger4;
    let wire = Wire::open(&bed.switch, SWITCH_TO_SERVER)?;
    let answers = Capture::start(&bed.server.namespace, SERVER_DOOR, |frame, direction| {
        direction == Direction::Out && frame.len() > 34 && frame[12..14] == [8, 0]
    })?;
    let head = || ipv4(STRANGER4, SERVER4);
    let fragments = head().identification(7).fragments(&tcp(40_004, GUARDED), 8);
    // Each is answered, as `packets.md` says of Linux: a SYN-ACK, or an echo reply.
    let sent = [
        vec![host.ethernet().carries_ip(&head().carries(&tcp(40_001, GUARDED)))],
        vec![host.ethernet().priority_tag().carries_ip(&head().carries(&tcp(40_002, GUARDED)))],
        vec![host.ethernet().carries_ip(&head().no_operations(40).carries(&tcp(40_003, GUARDED)))],
        fragments.iter().map(|fragment| host.ethernet().carries_ip(fragment)).collect(),
        vec![
            host.ethernet()
                .priority_tags(8)
                .carries_ip(&head().evil().carries(&tcp(40_005, GUARDED))),
        ],
        vec![host.ethernet().carries_ip(&head().carries(&icmp(8, 0, &[0, 1, 0, 1])))],
    ];
    for (position, frames) in sent.iter().enumerate() {
        for frame in frames {
            wire.send(frame)?;
        }
        answers
            .wait_for(position as u64 + 1, PATIENCE)
            .map_err(|error| error.context(format!("frame {position} is not answered")))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flood_ends_where_it_is_told_to() -> Result<()> {
    let bed = Bed::new()?;
    let frame = bed.stranger4.ethernet().carries_ip(&ipv4(STRANGER4, SERVER4).carries(&tcp(1, 9)));
    let arrived = Capture::start(&bed.server.namespace, SERVER_DOOR, |frame, direction| {
        direction == Direction::In && ends(frame).is_some_and(|ends| ends.source.port() == 1)
    })?;
    let flood = |packets, limit| {
        Flood::start(
            &bed.stranger4.namespace,
            CLIENT_INTERFACE,
            vec![frame.clone()],
            packets,
            limit,
        )
    };
    assert_eq!(flood(1000, PATIENCE)?.finish()?, 1000);
    arrived.wait_for(1000, PATIENCE)?;
    assert_eq!(arrived.stop().count, 1000);
    let begin = Instant::now();
    flood(u64::MAX, Duration::from_millis(200))?.finish()?;
    assert!(begin.elapsed() < PATIENCE);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_capture_ends_although_the_line_is_never_quiet() -> Result<()> {
    let bed = Bed::new()?;
    let frame = bed.stranger4.ethernet().carries_ip(&ipv4(STRANGER4, SERVER4).carries(&tcp(1, 9)));
    let arrived = Capture::start(&bed.server.namespace, SERVER_DOOR, |_, _| true)?;
    let namespace = &bed.stranger4.namespace;
    let flood = Flood::start(namespace, CLIENT_INTERFACE, vec![frame], u64::MAX, PATIENCE * 4)?;
    arrived.wait_for(1000, PATIENCE)?;
    let begin = Instant::now();
    let heard = arrived.stop();
    let took = begin.elapsed();
    assert!(took < PATIENCE * 2, "the flood kept it for {took:?}");
    assert!(heard.count >= 1000);
    assert!(flood.stop()? >= heard.count / 2, "each frame is heard once, and its answer");
    Ok(())
}

fn own_namespaces() -> BTreeSet<String> {
    let prefix = format!("og-{}-", std::process::id());
    fs::read_dir("/run/netns")
        .map(|entries| {
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .filter(|name| name.starts_with(&prefix))
                .collect()
        })
        .unwrap_or_default()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn nothing_is_left_behind_also_after_a_panic() -> Result<()> {
    let mut names = Vec::new();
    let mut child = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let bed = Bed::new().expect("a bed");
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED).expect("a server");
        let sleeper = start(bed.server.namespace.command("sleep").arg("600")).expect("a child");
        child = Some(sleeper.pid());
        names = own_namespaces()
            .into_iter()
            .filter(|name| name.starts_with(bed.switch.name().trim_end_matches("switch")))
            .collect();
        panic!("on purpose");
    }));
    assert!(outcome.is_err());
    assert_eq!(names.len(), 5);
    let left = own_namespaces();
    assert!(names.iter().all(|name| !left.contains(name)), "{left:?}");
    let child = child.expect("a child was started");
    assert!(!std::path::Path::new(&format!("/proc/{child}")).exists(), "{child} still runs");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_a_killed_run_left_is_removed_by_the_next() -> Result<()> {
    // No process has this id: it is above the largest that Linux gives.
    let name = "og-4194305-0-server";
    let limit = Duration::from_secs(5);
    run(Command::new("ip").args(["netns", "add", name]), limit)?.expect_success()?;
    let mut inhabitant =
        start(Command::new("nsenter").args([&format!("--net=/run/netns/{name}"), "sleep", "600"]))?;
    let inside = fs::metadata(format!("/run/netns/{name}"))?;
    ollama_guard_tests::bed::until("the child to be inside", limit, || {
        use std::os::linux::fs::MetadataExt;
        fs::metadata(format!("/proc/{}/ns/net", inhabitant.pid()))
            .is_ok_and(|metadata| metadata.st_ino() == inside.st_ino())
    })?;
    let living = Namespace::new(1_000_000, "living")?;
    reap();
    assert!(!std::path::Path::new(&format!("/run/netns/{name}")).exists());
    inhabitant.wait(limit)?;
    assert!(living.path().exists(), "a living run is left alone");
    Ok(())
}
