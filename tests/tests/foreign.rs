//! A foreign XDP program is never displaced and never taken for ours: the guard stands behind it.
//!
//! Long because the same promises are asked of two hooks, each in front of and behind others.

use std::{net::IpAddr, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType, XdpMode};
use ollama_guard::dataplane::Hook;
use ollama_guard_common::{Mode, Reason};
use ollama_guard_tests::{
    bed::{
        Bed, CLIENT_INTERFACE, Capture, Direction, Door, Flood, Foreign, ForeignTc, Guard,
        GuardSetup, Host, Namespace, Objects, Place, SERVER_DOOR, SWITCH_TO_SERVER, Standin,
        TC_ACT_OK, Wire, XDP_PASS, XDP_TX, everyone_is_served, get, hook_at_tc, knock,
        only_the_friend_is_served, rounds, run, until, without_links, xdp_program_id,
    },
    packet::{ends, ipv4, ipv6, tcp},
    policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, SERVER6, STRANGER4, STRANGER6},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// More programs than a TCX chain takes (`BPF_MPROG_MAX`, include/linux/bpf_mprog.h).
const CHAIN_PLACES: usize = 80;
/// How long nobody has to answer.
const SILENCE: Duration = Duration::from_millis(500);
/// The longest that a flood lasts.
const FLOOD_LIMIT: Duration = Duration::from_secs(120);

fn for_the_friend(attach: &str) -> GuardSetup {
    GuardSetup::of(SERVER_DOOR).attach(attach).allow(FRIEND4).allow(FRIEND6)
}

/// P12.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn behind_a_foreign_program_the_door_is_guarded_all_the_same() -> Result<()> {
    for (action, place, attach) in [
        (XDP_PASS, XdpMode::Driver, "auto"),
        (XDP_PASS, XdpMode::Skb, "native"),
        (XDP_PASS, XdpMode::Skb, "generic"),
        (XDP_TX, XdpMode::Driver, "native"),
        (XDP_TX, XdpMode::Skb, "auto"),
    ] {
        let what = format!("action {action} in {place:?}, we ask for {attach}");
        let bed = Bed::new()?;
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
        everyone_is_served(&bed)?;
        let foreign = Foreign::attach(&bed.server.namespace, SERVER_DOOR, action, place)?;
        let id = foreign.program_id()?;
        let seen = || xdp_program_id(&bed.server.namespace, SERVER_DOOR);
        if action == XDP_PASS {
            // The contrast.
            everyone_is_served(&bed)?;
        }

        let mut guard = for_the_friend(attach).start(&bed.server.namespace)?;
        guarded_behind(&guard, id).with_context(|| what.clone())?;
        assert_eq!(seen()?, Some(id), "{what}: the foreign program is not there any more");
        if action == XDP_PASS {
            only_the_friend_is_served(&bed).with_context(|| what.clone())?;
        } else {
            nobody_is_served(&bed).with_context(|| what.clone())?;
        }
        let stranger = STRANGER4.to_string();
        let told = guard.cli(&["explain", &stranger, "--interface", SERVER_DOOR])?;
        ensure!(told.code == Some(1) && told.stdout.contains("DROP"), "{what}: {told:?}");

        // Once it is gone the door is guarded at XDP: by the daemon that runs, and else by the next.
        let before = guard.status()?.door(SERVER_DOOR)?;
        if action == XDP_PASS {
            foreign.detach()?;
        } else {
            guard.kill9()?;
            foreign.detach()?;
            assert_eq!(seen()?, None, "{what}");
            only_the_friend_is_served(&bed).with_context(|| what.clone())?;
            guard.start()?;
        }
        let is_at_xdp = || guard.status().and_then(|status| Ok(status.door(SERVER_DOOR)?.hook));
        until("the guard to be at XDP", PATIENCE, || {
            is_at_xdp().is_ok_and(|hook| hook.as_deref() == Some("xdp"))
        })?;
        let door = guard.status()?.door(SERVER_DOOR)?;
        ensure!(door.hook.as_deref() == Some("xdp") && door.is_covered, "{what}: {door:?}");
        assert_eq!(seen()?, door.program, "{what}");
        only_the_friend_is_served(&bed).with_context(|| what.clone())?;
        if hook_at_tc() == Hook::Tcx {
            let gone = before.link.context("a link id")?;
            until("the link at TCX to go", PATIENCE, || !link_exists(gone).unwrap_or(true))?;
        } else {
            let filters = || ingress_filters(&bed.server.namespace);
            until("the filter to go", PATIENCE, || filters().is_ok_and(|left| left.is_empty()))?;
        }
    }
    Ok(())
}

/// What the daemon and its status have to say of a door whose XDP slot is taken.
fn guarded_behind(guard: &Guard<'_>, foreign: u64) -> Result<()> {
    let status = guard.status()?;
    let door = status.door(SERVER_DOOR)?;
    ensure!(door.is_covered && door.hook.as_deref() == Some(hook_at_tc().name()), "{door:?}");
    ensure!(door.behind == Some(foreign) && door.attach.is_none(), "{door:?}");
    let text = guard.cli(&["status"])?;
    ensure!(text.code == Some(0), "{text:?}");
    let line = text.stdout.lines().find(|line| line.trim_start().starts_with(SERVER_DOOR));
    let hook = hook_at_tc();
    let words = format!("covered, {hook}, behind XDP program {foreign}");
    ensure!(line.is_some_and(|line| line.contains(&words)), "{text:?}");
    let said =
        format!("guarding {SERVER_DOOR} by {hook}: its XDP slot is taken by program {foreign}");
    ensure!(guard.log().contains(&said), "no {said:?} in {}", guard.log());
    Ok(())
}

fn nobody_is_served(bed: &Bed) -> Result<()> {
    for knock in knock(bed, |_| SILENCE)? {
        ensure!(!knock.answer.is_served(), "{knock}");
    }
    Ok(())
}

fn link_exists(id: u64) -> Result<bool> {
    let list = run(Command::new("bpftool").args(["--json", "link", "show"]), PATIENCE)?;
    let list: serde_json::Value = serde_json::from_str(list.expect_success()?)?;
    Ok(list.as_array().is_some_and(|links| links.iter().any(|link| link["id"] == id)))
}

/// P1, P2 and P11 behind a foreign program.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn behind_a_foreign_program_death_and_restart_open_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let _foreign = Foreign::attach(&bed.server.namespace, SERVER_DOOR, XDP_PASS, XdpMode::Skb)?;
    everyone_is_served(&bed)?;
    let before = Objects::now()?;
    let mut guard = for_the_friend("auto").start(&bed.server.namespace)?;
    let ours = Objects::now()?.without(&before);
    let door = guard.status()?.door(SERVER_DOOR)?;
    lives_and_deaths(
        &bed,
        &mut guard,
        |guard| guard.start(),
        |guard| {
            let now = guard.status()?.door(SERVER_DOOR)?;
            ensure!(now.is_covered && now.link == door.link, "{now:?} after {door:?}");
            ensure!(now.program != door.program, "the program is still the first daemon's");
            Ok(())
        },
    )?;
    detached_without_a_trace(&bed, &guard, &ours)
}

/// The daemon dies and comes back while strangers flood the door and a friend asks.
fn lives_and_deaths(
    bed: &Bed,
    guard: &mut Guard<'_>,
    start: impl Fn(&mut Guard<'_>) -> Result<()>,
    check: impl Fn(&Guard<'_>) -> Result<()>,
) -> Result<()> {
    const DEATHS: usize = 4;
    let knocks = |host: &Host| -> Result<Flood> {
        let knock = |port: u16| match (host.v4, host.v6) {
            (Some(source), _) => ipv4(source, SERVER4).carries(&tcp(20_000 + port, GUARDED)),
            (None, source) => {
                let source = source.unwrap_or(STRANGER6);
                ipv6(source, SERVER6).carries(&tcp(20_000 + port, GUARDED))
            }
        };
        let frames = (0..64).map(|port| host.ethernet().carries_ip(&knock(port))).collect();
        Flood::start(&host.namespace, CLIENT_INTERFACE, frames, u64::MAX, FLOOD_LIMIT)
    };
    // A packet socket sees packets before TC does: what counts is the answers.
    let answers = Capture::start(&bed.server.namespace, SERVER_DOOR, |frame, direction| {
        direction == Direction::Out
            && ends(frame).is_some_and(|ends| {
                let to = ends.destination.ip();
                ends.source.port() == GUARDED
                    && (to == IpAddr::from(STRANGER4) || to == IpAddr::from(STRANGER6))
            })
    })?;
    let floods = [knocks(&bed.stranger4)?, knocks(&bed.stranger6)?];
    let friend_is_served = || -> Result<()> {
        for server in bed.friend.servers(GUARDED) {
            let answer = get(&bed.friend.namespace, server, "/api/version", PATIENCE)?;
            ensure!(answer.is_served(), "the friend got {answer:?}");
        }
        Ok(())
    };
    for death in 0..DEATHS {
        friend_is_served()?;
        if death % 2 == 0 {
            guard.kill9()?
        } else {
            guard.stop().map(drop)?
        }
        friend_is_served()?;
        start(guard)?;
        check(guard)?;
    }
    let mut flooded = 0;
    for flood in floods {
        flooded += flood.stop()?;
    }
    let answered = answers.stop().count;
    println!("{flooded} packets of strangers, {answered} answers");
    ensure!(
        flooded > rounds(10_000) as u64 && answered == 0,
        "{answered} answers to {flooded} packets"
    );
    only_the_friend_is_served(bed)
}

fn detached_without_a_trace(bed: &Bed, guard: &Guard<'_>, ours: &Objects) -> Result<()> {
    ensure!(!ours.programs.is_empty() && !ours.maps.is_empty(), "{ours:?}");
    guard.done(&["detach"])?;
    let left = || -> Result<Objects> { Ok(Objects::now()?.within(ours)) };
    until("everything of ours to be gone", PATIENCE, || left().is_ok_and(|left| left.is_empty()))
        .with_context(|| format!("left: {:?}", left()))?;
    ensure!(!guard.pin_dir().exists(), "{} exists", guard.pin_dir().display());
    ensure!(ingress_filters(&bed.server.namespace)?.is_empty());
    everyone_is_served(bed)
}

/// The same promises where the kernel has no TCX.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_tcx_a_clsact_filter_keeps_the_same_promises() -> Result<()> {
    let bed = Bed::new()?;
    let server = &bed.server.namespace;
    let _standin = Standin::start_in(server, GUARDED)?;
    let foreign = Foreign::attach(server, SERVER_DOOR, XDP_PASS, XdpMode::Skb)?;
    everyone_is_served(&bed)?;
    let before = Objects::now()?;
    let mut guard = for_the_friend("auto").prepare(server)?;
    without_links(|| guard.start())?;
    let ours = Objects::now()?.without(&before);
    let first = guard.status()?.door(SERVER_DOOR)?;
    let is_filter = |door: &Door| door.is_covered && door.hook.as_deref() == Some("clsact");
    ensure!(is_filter(&first) && first.behind == Some(foreign.program_id()?), "{first:?}");
    ensure!(ingress_filters(server)?.contains("ollama-guard"), "{}", ingress_filters(server)?);
    only_the_friend_is_served(&bed)?;
    let stranger = STRANGER6.to_string();
    let told = guard.cli(&["explain", &stranger, "--interface", SERVER_DOOR])?;
    ensure!(told.code == Some(1), "{told:?}");
    let start = |guard: &mut Guard<'_>| without_links(|| guard.start());
    lives_and_deaths(&bed, &mut guard, start, |guard| {
        let now = guard.status()?.door(SERVER_DOOR)?;
        ensure!(is_filter(&now) && now.program != first.program, "{now:?} after {first:?}");
        ensure!(ingress_filters(server)?.matches("ollama-guard").count() == 1);
        Ok(())
    })?;
    // A filter that lives goes on where there is TCX, too: nobody is let through for it.
    guard.stop()?;
    guard.start()?;
    ensure!(is_filter(&guard.status()?.door(SERVER_DOOR)?));
    // One that somebody else removes is missed, and made again.
    guard.kill9()?;
    run(server.command("tc").args(["filter", "del", "dev", SERVER_DOOR, "ingress"]), PATIENCE)?
        .expect_success()?;
    everyone_is_served(&bed)?;
    ensure!(!guard.status()?.door(SERVER_DOOR)?.is_covered);
    start(&mut guard)?;
    ensure!(is_filter(&guard.status()?.door(SERVER_DOOR)?));
    only_the_friend_is_served(&bed)?;
    detached_without_a_trace(&bed, &guard, &ours)
}

/// Where others use clsact, theirs stays as it is.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_clsact_filter_lets_those_of_others_be() -> Result<()> {
    let bed = Bed::new()?;
    let server = &bed.server.namespace;
    let _standin = Standin::start_in(server, GUARDED)?;
    run(server.command("tc").args(["qdisc", "add", "dev", SERVER_DOOR, "clsact"]), PATIENCE)?
        .expect_success()?;
    let _behind = ForeignTc::attach(server, SERVER_DOOR, TC_ACT_OK, Place::Clsact(5))?;
    let theirs = ingress_filters(server)?;
    everyone_is_served(&bed)?;
    let mut guard = for_the_friend("auto").prepare(server)?;
    without_links(|| guard.start())?;
    only_the_friend_is_served(&bed)?;
    ensure!(guard.status()?.door(SERVER_DOOR)?.is_covered);
    guard.done(&["detach"])?;
    assert_eq!(ingress_filters(server)?, theirs);
    everyone_is_served(&bed)?;

    // One in the first place decides before ours, and is not thrown out for it.
    let in_front = ForeignTc::attach(server, SERVER_DOOR, TC_ACT_OK, Place::Clsact(1))?;
    let mut guard = for_the_friend("auto").prepare(server)?;
    without_links(|| guard.start())?;
    let told = guard.cli(&["status"])?;
    let named = format!("program {} stands before ours", in_front.program_id()?);
    ensure!(told.code == Some(1) && told.stdout.contains(&named), "{told:?}");
    // Their own detaching would look in another namespace.
    run(
        server.command("tc").args(["filter", "del", "dev", SERVER_DOOR, "ingress", "pref", "1"]),
        PATIENCE,
    )?
    .expect_success()?;
    only_the_friend_is_served(&bed)?;
    ensure!(guard.status()?.door(SERVER_DOOR)?.is_covered);
    Ok(())
}

/// Where nothing works the daemon says so: by name, with the program in the slot, and by its exit
/// code.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn where_no_hook_can_be_had_the_daemon_says_so() -> Result<()> {
    let bed = Bed::new()?;
    let server = &bed.server.namespace;
    let foreign = Foreign::attach(server, SERVER_DOOR, XDP_PASS, XdpMode::Skb)?;
    let id = foreign.program_id()?;
    // All the places in the chain are taken.
    let mut others = Vec::new();
    while others.len() < CHAIN_PLACES {
        match ForeignTc::attach(server, SERVER_DOOR, TC_ACT_OK, Place::Last) {
            Ok(other) => others.push(other),
            Err(_) => break,
        }
    }
    let guard = for_the_friend("auto").prepare(server)?;
    let refused = guard.run_to_the_end(PATIENCE)?;
    ensure!(refused.code == Some(2), "{} others: {refused:?}", others.len());
    let error = refused.stderr.rsplit("ollama-guard: ").next().unwrap_or_default();
    for word in [SERVER_DOOR, &format!("program {id}"), "tcx", "exclude"] {
        ensure!(error.contains(word), "no {word:?} in {error}");
    }
    assert_eq!(xdp_program_id(server, SERVER_DOOR)?, Some(id));
    ensure!(!guard.pin_dir().exists(), "pins were left behind: {refused:?}");
    Ok(())
}

/// A tag that the receive path has moved into the buffer's metadata, and those behind it.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_priority_tag_hides_nothing_behind_a_foreign_program() -> Result<()> {
    let bed = Bed::new()?;
    let server = &bed.server.namespace;
    let _standin = Standin::start_in(server, GUARDED)?;
    let _foreign = Foreign::attach(server, SERVER_DOOR, XDP_PASS, XdpMode::Skb)?;
    let syn = |port| ipv4(STRANGER4, SERVER4).carries(&tcp(port, GUARDED));
    let tagged = |tags: usize, port| {
        let head = (0..tags).fold(bed.stranger4.ethernet(), |head, _| head.priority_tag());
        head.carries_ip(&syn(port))
    };
    let answers = || {
        Capture::start(server, SERVER_DOOR, |frame, direction| {
            direction == Direction::Out
                && ends(frame).is_some_and(|ends| {
                    ends.source.port() == GUARDED && ends.destination.ip() == STRANGER4
                })
        })
    };
    let wire = Wire::open(&bed.switch, SWITCH_TO_SERVER)?;
    let send = |first: u16| -> Result<()> {
        for tags in 0..4_u16 {
            wire.send(&tagged(usize::from(tags), first + tags))?;
        }
        Ok(())
    };
    // The contrast: the stack takes such frames.
    let heard = answers()?;
    send(30_000)?;
    heard.wait_for(4, PATIENCE)?;
    drop(heard);
    let guard = for_the_friend("auto").start(server)?;
    let heard = answers()?;
    send(31_000)?;
    let counted = || guard.status()?.counter(Mode::Enforce, Reason::NotListed);
    until("four drops", PATIENCE, || counted().is_ok_and(|drops| drops >= 4))?;
    let count = heard.stop().count;
    ensure!(count == 0, "{count} answers to tagged packets of a stranger");
    Ok(())
}

/// What `tc` says of the filters at the door, and of its queueing discipline for them.
fn ingress_filters(namespace: &Namespace) -> Result<String> {
    let mut text = String::new();
    for list in [&["filter", "show", "dev", SERVER_DOOR, "ingress"][..], &["qdisc", "show"]] {
        let listed = run(namespace.command("tc").args(list), PATIENCE)?;
        let about_us = |line: &&str| list[0] == "filter" || line.contains("clsact");
        for line in listed.expect_success()?.lines().filter(about_us) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

/// Other programs at TCX: one in front decides before ours does.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn among_other_programs_at_tcx_the_guard_is_the_first() -> Result<()> {
    let bed = Bed::new()?;
    let server = &bed.server.namespace;
    let _standin = Standin::start_in(server, GUARDED)?;
    let _xdp = Foreign::attach(server, SERVER_DOOR, XDP_PASS, XdpMode::Skb)?;
    let there_before = ForeignTc::attach(server, SERVER_DOOR, TC_ACT_OK, Place::Last)?;
    everyone_is_served(&bed)?;
    let mut guard = for_the_friend("auto").start(server)?;
    only_the_friend_is_served(&bed)?;
    let later = ForeignTc::attach(server, SERVER_DOOR, TC_ACT_OK, Place::Last)?;
    only_the_friend_is_served(&bed)?;
    let door = guard.status()?.door(SERVER_DOOR)?;
    ensure!(door.is_covered, "{door:?}");

    // In front of ours: packets pass that ours never sees, and status says so.
    let in_front = ForeignTc::attach(server, SERVER_DOOR, TC_ACT_OK, Place::First)?;
    everyone_is_served(&bed)?;
    let told = guard.cli(&["status"])?;
    let named = format!("program {} stands before ours", in_front.program_id()?);
    ensure!(told.code == Some(1) && told.stdout.contains(&named), "{told:?}");
    ensure!(!guard.status()?.door(SERVER_DOOR)?.is_covered);

    // The next daemon goes to the front again, and nobody is thrown out.
    guard.kill9()?;
    guard.start()?;
    let door = guard.status()?.door(SERVER_DOOR)?;
    ensure!(door.is_covered && door.hook.as_deref() == Some("tcx"), "{door:?}");
    only_the_friend_is_served(&bed)?;
    for other in [&there_before, &later, &in_front] {
        let id = other.program_id()?;
        ensure!(is_in_chain(server, id)?, "program {id} was thrown out");
    }
    guard.done(&["detach"])?;
    everyone_is_served(&bed)
}

/// By somebody else's reading of the kernel's list.
fn is_in_chain(namespace: &Namespace, program: u64) -> Result<bool> {
    let ingress = TcAttachType::Ingress;
    let (_, chain) = namespace.enter(|| SchedClassifier::query_tcx(SERVER_DOOR, ingress))??;
    Ok(chain.iter().any(|one| u64::from(one.id()) == program))
}

/// While ours is there, nobody takes the door silently.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_foreign_program_cannot_take_our_place() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let guard = GuardSetup::of(SERVER_DOOR)
        .attach("generic")
        .allow(FRIEND4)
        .allow(FRIEND6)
        .start(&bed.server.namespace)?;
    let ours = guard.status()?.door(SERVER_DOOR)?.program;
    for place in [XdpMode::Driver, XdpMode::Skb] {
        assert!(Foreign::attach(&bed.server.namespace, SERVER_DOOR, XDP_PASS, place).is_err());
    }
    assert_eq!(xdp_program_id(&bed.server.namespace, SERVER_DOOR)?, ours);
    only_the_friend_is_served(&bed)
}

/// The foreign programs of these tests do what they say.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_foreign_programs_load_and_leave() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    for place in [XdpMode::Driver, XdpMode::Skb] {
        let passing = Foreign::attach(&bed.server.namespace, SERVER_DOOR, XDP_PASS, place)?;
        let seen = xdp_program_id(&bed.server.namespace, SERVER_DOOR)?;
        assert_eq!(seen, Some(passing.program_id()?));
        everyone_is_served(&bed)?;
        passing.detach()?;
    }
    let turning = Foreign::attach(&bed.server.namespace, SERVER_DOOR, XDP_TX, XdpMode::Skb)?;
    assert!(everyone_is_served(&bed).is_err(), "everything is turned round at the door");
    drop(turning);
    assert_eq!(xdp_program_id(&bed.server.namespace, SERVER_DOOR)?, None);
    everyone_is_served(&bed)
}
