//! The life of the inner door: it goes on without a daemon and is taken over in place, what is done to it is
//! noticed and put right, it is proven and explained as any door, and goes when it is told to.
//!
//! Long because it is one life, from the first start over an upgrade to `detach`.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use ollama_guard_common::{Mode, Reason, abi::INNER_OBSERVES};
use ollama_guard_tests::{
    bed::{
        Answer, Asker, CLIENT_INTERFACE, Cgroup, Contained, Door, Flood, Guard, GuardSetup,
        PUBLISHED, Process, SERVER_DOOR, get, patience, policy_table::tamper, run, until,
    },
    policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, STRANGER4},
};

const SERVED: Duration = Duration::from_secs(5);
const SILENT: Duration = Duration::from_millis(1200);
/// The promise: drift is put right within this time.
const LIMIT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);
const STANDIN: &str = env!("CARGO_BIN_EXE_standin");
const NAME: &str = "inner door";

/// A host with a published container, and the program in it.
fn bed() -> Result<(Contained, Process)> {
    let bed = Contained::new()?;
    bed.publish(PUBLISHED)?;
    let standin = bed.serve(Path::new(STANDIN), &bed.web, GUARDED)?;
    Ok((bed, standin))
}

fn inner_only(cgroup: &Cgroup) -> GuardSetup {
    let setup = GuardSetup::automatic().config("exclude = [\"*\"]\n").inner_at(cgroup);
    setup.allow(FRIEND4).allow(FRIEND6)
}

/// A configuration that says where, and not whether.
fn by_file(cgroup: &Cgroup, more: &str) -> String {
    let path = cgroup.path().display();
    format!("exclude = [\"*\"]\n[inner]\n{more}cgroup = \"{path}\"\n")
}

fn ask(bed: &Contained, source: IpAddr, limit: Duration) -> Result<Answer> {
    let asker = Asker::with_address(&bed.pair.client, source);
    get(asker, SocketAddr::from((SERVER4, PUBLISHED)), "/", limit)
}

fn stranger_is_served(bed: &Contained) -> Result<()> {
    let answer = ask(bed, STRANGER4.into(), SERVED)?;
    ensure!(answer.is_served(), "the stranger got {answer:?}");
    Ok(())
}

fn only_the_friend_is_served(bed: &Contained) -> Result<()> {
    let answer = ask(bed, FRIEND4.into(), SERVED)?;
    ensure!(answer.is_served(), "the friend got {answer:?}");
    let answer = ask(bed, STRANGER4.into(), SILENT)?;
    ensure!(answer == Answer::NoAnswer, "the stranger got {answer:?}");
    Ok(())
}

fn door(guard: &Guard<'_>) -> Result<Door> {
    guard.status()?.door(NAME)
}

fn bpftool(arguments: &[&str]) -> Result<()> {
    run(Command::new("bpftool").args(arguments), PATIENCE)?.expect_success().map(drop)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_next_daemon_takes_the_link_over_in_a_flood_without_a_gap() -> Result<()> {
    let (bed, _standin) = bed()?;
    let mut guard = inner_only(&bed.cgroup).start(bed.host())?;
    only_the_friend_is_served(&bed)?;
    let frames = bed.knocks(PUBLISHED)?;
    let before = Contained::accepted_and_sent(&bed.web)?;
    let client = &bed.pair.client;
    let limit = patience(Duration::from_secs(60));
    let flood = Flood::start(client, CLIENT_INTERFACE, frames, u64::MAX, limit)?;
    let first = door(&guard)?;
    let mut programs = vec![first.program];
    for is_clean in [true, false] {
        if is_clean {
            guard.stop()?;
        } else {
            guard.kill9()?;
        }
        guard.start()?;
        let next = door(&guard)?;
        ensure!(next.is_covered && next.link == first.link, "{first:?}, and then {next:?}");
        ensure!(!programs.contains(&next.program), "{programs:?}, and then {next:?}");
        programs.push(next.program);
    }
    let sent = flood.stop()?;
    let after = Contained::accepted_and_sent(&bed.web)?;
    ensure!(sent > 1000 && after == before, "{before:?}, and after {sent} knocks {after:?}");
    only_the_friend_is_served(&bed)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_is_done_to_it_is_noticed_and_put_right() -> Result<()> {
    let (bed, _standin) = bed()?;
    let mut guard = inner_only(&bed.cgroup).start(bed.host())?;
    let pin = guard.pin_dir().join("links/inner");
    let link = door(&guard)?.link.context("a link")?.to_string();
    type Damage<'d> = &'d dyn Fn(&Guard<'_>) -> Result<()>;
    let severed = |_: &Guard<'_>| bpftool(&["link", "detach", "id", &link]);
    let told_to_observe =
        |guard: &Guard<'_>| tamper(guard, |table, _| table.inner = INNER_OBSERVES);
    let pin_removed = |_: &Guard<'_>| Ok(fs::remove_file(&pin)?);
    let cases: [(&str, bool, bool, Damage<'_>); 3] = [
        ("had been set to only observe", true, true, &told_to_observe),
        ("the pin", false, false, &pin_removed),
        ("had been severed", true, false, &severed),
    ];
    for (told, is_open, is_covered, damage) in cases {
        guard.signal(Signal::SIGSTOP)?;
        damage(&guard).with_context(|| told.to_owned())?;
        if is_open {
            stranger_is_served(&bed).with_context(|| told.to_owned())?;
        }
        let seen = guard.status_past_the_daemon()?;
        let row = seen.stdout.lines().find(|line| line.trim_start().starts_with(NAME));
        let row = row.unwrap_or_default();
        let shown = if is_covered { "OBSERVES ONLY" } else { "not covered" };
        // Of a door without a pin nobody knows but the daemon.
        let is_known = row.contains(shown) || told == "the pin" && row.is_empty();
        ensure!(is_known, "{told}: {seen:?}");
        let begun = Instant::now();
        guard.signal(Signal::SIGCONT)?;
        until(told, LIMIT, || {
            guard.status().is_ok_and(|status| {
                let is_told =
                    status.repairs().is_ok_and(|all| all.iter().any(|r| r.contains(told)));
                let door = status.door(NAME);
                is_told && door.is_ok_and(|door| door.is_covered && !door.observes)
            })
        })
        .with_context(|| format!("after {:?}: {:?}", begun.elapsed(), guard.status()))?;
        only_the_friend_is_served(&bed).with_context(|| told.to_owned())?;
    }
    ensure!(door(&guard)?.link.map(|id| id.to_string()).as_ref() != Some(&link));
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn it_is_proven_and_explained_as_any_door() -> Result<()> {
    let (bed, _standin) = bed()?;
    let mut guard = inner_only(&bed.cgroup).start(bed.host())?;
    let proof = guard.done(&["verify"])?;
    let line = proof.lines().find(|line| line.contains(NAME)).context("a proof")?;
    ensure!(line.contains("holds: cgroup"), "{proof}");
    ensure!(proof.contains("VERIFIED: every door holds (1;"), "{proof}");
    let friend = guard.done(&["explain", &FRIEND4.to_string(), "--inner"])?;
    ensure!(friend.contains("PASS (allowed)") && friend.contains("rule: allow"), "{friend}");
    let stranger = guard.cli(&["explain", &STRANGER4.to_string(), "--inner"])?;
    ensure!(
        stranger.code == Some(1) && stranger.stdout.contains("DROP (not-listed)"),
        "{stranger:?}"
    );
    // Nothing of it is counted.
    ensure!(guard.status()?.counter_at(NAME, Mode::Enforce, Reason::NotListed)? == 0);
    let link = door(&guard)?.link.context("a link")?.to_string();
    guard.signal(Signal::SIGSTOP)?;
    bpftool(&["link", "detach", "id", &link])?;
    let outcome = guard.status_past_the_daemon()?;
    guard.signal(Signal::SIGCONT)?;
    ensure!(outcome.code == Some(1) && outcome.stdout.contains("severed"), "{outcome:?}");
    Ok(())
}

/// Where a guard ran before that had none, it drops nothing until somebody says so.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn after_an_upgrade_it_observes_until_it_is_confirmed() -> Result<()> {
    let (bed, _standin) = bed()?;
    let setup = GuardSetup::automatic().config(&by_file(&bed.cgroup, "")).inner_by_file();
    let mut guard = setup.allow(FRIEND4).prepare(bed.host())?;
    // A guard as it was before the upgrade.
    guard.write_config(&by_file(&bed.cgroup, "enable = false\n"))?;
    guard.start()?;
    ensure!(guard.status()?.door(NAME).is_err());
    guard.stop()?;
    let note = guard.state_dir().join("inner-door.json");
    fs::remove_file(&note).context("what an older guard would not have written")?;
    guard.write_config(&by_file(&bed.cgroup, ""))?;
    guard.start()?;
    let found = door(&guard)?;
    ensure!(found.is_covered && found.observes, "{found:?}");
    stranger_is_served(&bed)?;
    let told = guard.done(&["events", "--json"])?;
    ensure!(told.contains("would-drop") && told.contains(NAME), "{told}");
    let text = guard.done(&["status"])?;
    ensure!(text.contains("ENFORCING") && text.contains("OBSERVES ONLY until"), "{text}");
    let proof = guard.done(&["verify"])?;
    ensure!(proof.contains("only observes until"), "{proof}");
    // The next daemon knows, too.
    guard.stop()?;
    guard.start()?;
    ensure!(door(&guard)?.observes);
    let done = guard.done(&["confirm", "--inner"])?;
    ensure!(done.contains("drops from now on"), "{done}");
    only_the_friend_is_served(&bed)?;
    ensure!(!door(&guard)?.observes);
    let again = guard.done(&["confirm", "--inner"])?;
    ensure!(again.contains("before"), "{again}");
    guard.stop()?;
    guard.start()?;
    only_the_friend_is_served(&bed)?;
    ensure!(guard.status()?.repairs()?.is_empty(), "{:?}", guard.status()?.repairs());
    let log = fs::read_to_string(guard.state_dir().join("audit.log"))?;
    ensure!(log.contains("confirm-inner"), "{log}");
    Ok(())
}

/// What is tried out is tried out here too: the rules and the modes are those of all doors.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_trial_of_rules_and_of_a_mode_is_taken_back_here_too() -> Result<()> {
    let (bed, _standin) = bed()?;
    let guard = inner_only(&bed.cgroup).start(bed.host())?;
    only_the_friend_is_served(&bed)?;
    let stranger = STRANGER4.to_string();
    for tried in [&["allow", "add", &stranger][..], &["mode", "observe"]] {
        guard.done(&[tried, &["--confirm", "3s"]].concat())?;
        stranger_is_served(&bed)?;
        let is_shut_out =
            || ask(&bed, STRANGER4.into(), SILENT).is_ok_and(|answer| !answer.is_served());
        until("the trial to be taken back", PATIENCE, is_shut_out)?;
    }
    only_the_friend_is_served(&bed)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_running_daemon_follows_the_configuration() -> Result<()> {
    let (bed, _standin) = bed()?;
    let elsewhere = Cgroup::new()?;
    let setup = GuardSetup::automatic().config(&by_file(&bed.cgroup, "")).inner_by_file();
    let mut guard = setup.allow(FRIEND4).start(bed.host())?;
    // No guard ran here before: it drops from the first.
    only_the_friend_is_served(&bed)?;
    let reload = |guard: &Guard<'_>, config: &str, what: &str| -> Result<()> {
        guard.write_config(config)?;
        let told = guard.done(&["reload"])?;
        ensure!(told.contains("inner door: "), "{told}");
        until(what, LIMIT, || {
            let door = door(guard);
            match what {
                "gone" => door.is_err(),
                _ => door.is_ok_and(|door| door.is_covered),
            }
        })
        .with_context(|| format!("{:?}", guard.status()))
    };
    reload(&guard, &by_file(&bed.cgroup, "enable = false\n"), "gone")?;
    stranger_is_served(&bed)?;
    reload(&guard, &by_file(&bed.cgroup, "enable = true\n"), "back")?;
    only_the_friend_is_served(&bed)?;
    let before = door(&guard)?.link;
    reload(&guard, &by_file(&elsewhere, ""), "elsewhere")?;
    until("the other cgroup", LIMIT, || door(&guard).is_ok_and(|door| door.link != before))?;
    stranger_is_served(&bed)?;
    // A cgroup that is gone is told, and no reason for anything else to stop.
    drop(elsewhere);
    until("the trouble", LIMIT, || {
        guard
            .status()
            .and_then(|status| status.problems())
            .is_ok_and(|problems| problems.iter().any(|one| one.contains("cannot open the cgroup")))
    })?;
    reload(&guard, &by_file(&bed.cgroup, ""), "back")?;
    only_the_friend_is_served(&bed)?;
    guard.kill9()?;
    let text = guard.done(&["detach"])?;
    ensure!(text.contains("removed the inner door"), "{text}");
    stranger_is_served(&bed)
}

/// With the door at the interface there, too: what it drops never comes so far, and what it lets pass is
/// counted once in the sum.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn behind_another_door_nothing_is_counted_twice() -> Result<()> {
    let (bed, _standin) = bed()?;
    let _at_home = bed.serve(Path::new(STANDIN), bed.host(), GUARDED)?;
    let setup = GuardSetup::of(SERVER_DOOR).inner_at(&bed.cgroup).allow(FRIEND4);
    let guard = setup.start(bed.host())?;
    let server = SocketAddr::from((SERVER4, GUARDED));
    let asker = |source| Asker::with_address(&bed.pair.client, source);
    ensure!(get(asker(IpAddr::from(FRIEND4)), server, "/", SERVED)?.is_served());
    ensure!(get(asker(STRANGER4.into()), server, "/", SILENT)? == Answer::NoAnswer);
    let status = guard.status()?;
    let at = |door, reason| status.counter_at(door, Mode::Enforce, reason);
    ensure!(at(SERVER_DOOR, Reason::NotListed)? > 0 && at(NAME, Reason::NotListed)? == 0);
    ensure!(at(SERVER_DOOR, Reason::Allowed)? > 0 && at(NAME, Reason::Allowed)? > 0);
    let total = status.counter(Mode::Enforce, Reason::Allowed)?;
    ensure!(total == at(SERVER_DOOR, Reason::Allowed)?, "{status:?}");
    ensure!(status.book(Mode::Enforce)?.balances(), "{status:?}");
    // Who comes by the published port is seen by the inner door alone.
    let before = at(NAME, Reason::NotListed)?;
    ensure!(ask(&bed, STRANGER4.into(), SILENT)? == Answer::NoAnswer);
    let status = guard.status()?;
    ensure!(status.counter_at(NAME, Mode::Enforce, Reason::NotListed)? > before, "{status:?}");
    ensure!(status.book(Mode::Enforce)?.balances(), "{status:?}");
    let proof = guard.done(&["verify"])?;
    ensure!(proof.contains("every door holds (2;"), "{proof}");
    Ok(())
}

/// Who learns sees those, too, who come by ways that no interface's door sees; and counts nobody twice.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn who_comes_by_a_published_port_is_learned() -> Result<()> {
    let (bed, _standin) = bed()?;
    let _at_home = bed.serve(Path::new(STANDIN), bed.host(), GUARDED)?;
    let setup = GuardSetup::of(SERVER_DOOR).inner_at(&bed.cgroup).arguments(&["--observe"]);
    let guard = setup.start(bed.host())?;
    let usual = door(&guard)?.program;
    let (mut child, output) = guard.follow(&["learn", "--seconds", "4", "--json"], "learned")?;
    until("the program that learns", PATIENCE, || {
        door(&guard).is_ok_and(|one| one.program != usual)
    })?;
    ensure!(door(&guard)?.is_covered, "{:?}", door(&guard)?);
    stranger_is_served(&bed)?;
    let server = SocketAddr::from((SERVER4, GUARDED));
    let friend = Asker::with_address(&bed.pair.client, IpAddr::from(FRIEND4));
    ensure!(get(friend, server, "/", SERVED)?.is_served());
    ensure!(child.wait(patience(PATIENCE))?.success(), "{}", fs::read_to_string(&output)?);
    ensure!(door(&guard)?.program == usual, "the usual program is not back");
    let text = fs::read_to_string(&output)?;
    let line = text.lines().find(|line| line.starts_with('{')).context("no JSON")?;
    ensure!(line.contains(&STRANGER4.to_string()) && line.contains(&FRIEND4.to_string()), "{line}");
    let proposal: serde_json::Value = serde_json::from_str(line)?;
    let status = guard.status()?;
    // The friend by the interface, and the stranger by the inner door: each once.
    let once = status.counter_at(SERVER_DOOR, Mode::Observe, Reason::NotListed)?;
    let both = once + status.counter_at(NAME, Mode::Observe, Reason::NotListed)?;
    let packets = proposal["packets"].as_u64().context("packets")?;
    ensure!(packets > once && packets < both, "{packets}, of {once} and {both}: {line}");
    Ok(())
}

/// A container that uses the host's Ollama is shut out: said at the start, by the doctor, and when it happens,
/// with the command that lets it in.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_container_that_is_shut_out_is_told_with_the_way_in() -> Result<()> {
    const COMMAND: &str = "`ollama-guard allow add 172.17.0.0/16";
    let bed = Contained::new()?;
    let _standin = bed.serve(Path::new(STANDIN), bed.host(), GUARDED)?;
    let guard = inner_only(&bed.cgroup).start(bed.host())?;
    let said = |guard: &Guard<'_>| guard.log().matches(COMMAND).count();
    ensure!(said(&guard) == 1, "{}", guard.log());
    let server = SocketAddr::new(Contained::GATEWAY[0], GUARDED);
    for _ in 0..2 {
        ensure!(get(&bed.neighbour, server, "/", SILENT)? == Answer::NoAnswer);
    }
    until("the hint", PATIENCE, || said(&guard) == 2).with_context(|| guard.log())?;
    let advice = guard.root_cli_doctor()?;
    ensure!(advice.contains("containers-shut-out") || advice.contains(COMMAND), "{advice}");
    guard.done(&["allow", "add", "172.17.0.0/16", "--comment", "containers"])?;
    ensure!(get(&bed.neighbour, server, "/", SERVED)?.is_served());
    Ok(())
}
