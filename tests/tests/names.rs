//! Host names in rules, with a real name server. What is in force is asked of the door, by frames; the daemon is
//! told to ask again by `reload`, because it lets no answer run out sooner than in half a minute.

use std::{fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};
use ollama_guard_tests::{
    bed::{
        Bed, DOMAIN, Guard, GuardSetup, NameServer, ResolverFiles, SERVER_DOOR, passes, passes_to,
        until,
    },
    policy::{FRIEND4, GUARDED},
};

const PATIENCE: Duration = Duration::from_secs(15);
const OLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
/// The port of a second service.
const WEB: u16 = 8080;
const NEW: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 4);
const GUEST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 5);

/// A guard whose daemon asks a name server of its own.
fn guard<'bed>(bed: &'bed Bed, config: &str) -> Result<(Guard<'bed>, ResolverFiles)> {
    let setup = GuardSetup::of(SERVER_DOOR).attach("generic").config(config);
    let mut guard = setup.prepare(&bed.server.namespace)?;
    guard.hand_over(&guard.config_file())?;
    let files = guard.use_resolver_files()?;
    guard.start()?;
    Ok((guard, files))
}

fn allowing(entries: &str) -> String {
    format!("[[service]]\nallow = [\"{FRIEND4}\", {entries}]\n")
}

/// Has names looked up again until `condition` holds.
fn asked_again(guard: &Guard<'_>, what: &str, condition: impl Fn() -> bool) -> Result<()> {
    until(what, PATIENCE, || {
        let asked = guard.done(&["reload"]);
        std::thread::sleep(Duration::from_millis(200));
        asked.is_ok() && condition()
    })
    .with_context(|| guard.log())
}

fn status_line(guard: &Guard<'_>, name: &str) -> Result<String> {
    let status = guard.cli(&["status"])?;
    let is_it = |line: &&str| {
        line.to_ascii_lowercase().starts_with("name ")
            && line.contains(&format!("{name}.{DOMAIN}:"))
    };
    let line = status.stdout.lines().find(is_it).with_context(|| status.stdout.clone())?;
    Ok(line.to_owned())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_answer_that_changes_shuts_the_old_address_out_and_lets_the_new_one_in() -> Result<()> {
    let bed = Bed::new()?;
    let mut server = NameServer::start_in(&bed.server.namespace, &[("home", "198.51.100.3")])?;
    // By an alias, in which the server answers with two records.
    let (guard, _files) = guard(&bed, &allowing("\"alias.example\""))?;
    until("the first answer", PATIENCE, || passes(&bed, OLD).is_ok_and(|passes| passes))?;
    assert!(!passes(&bed, NEW)? && passes(&bed, FRIEND4)?);
    let generation = guard.status()?.generation()?;
    server.set(&[("home", "198.51.100.4"), ("home", "2001:db8::4")])?;
    asked_again(&guard, "the other answer", || passes(&bed, NEW).is_ok_and(|passes| passes))?;
    assert!(!passes(&bed, OLD)?);
    assert_eq!(guard.status()?.generation()?, generation + 1, "one edit");
    let line = "the name alias.example is resolved: +198.51.100.4 +2001:db8::4 -198.51.100.3";
    assert!(guard.log().contains(line), "{}", guard.log());
    let audit = fs::read_to_string(guard.state_dir().join("audit.log"))?;
    assert!(audit.contains("\"resolved\"") && audit.contains("-198.51.100.3"), "{audit}");
    until("the addresses in the status", PATIENCE, || {
        status_line(&guard, "alias")
            .is_ok_and(|line| line.contains("198.51.100.4, 2001:db8::4, as of "))
    })?;
    let explained = guard.done(&["explain", "198.51.100.4"])?;
    assert!(explained.contains("name alias.example"), "{explained}");
    // There is nobody of that name any more: that is an answer.
    server.set(&[])?;
    asked_again(&guard, "no address", || !passes(&bed, NEW).unwrap_or(true))?;
    // What is shown follows what is in force by a moment.
    until("the loud line", PATIENCE, || {
        status_line(&guard, "alias").is_ok_and(|line| {
            line.starts_with("NAME") && line.contains("HAS NO ADDRESS, by the answer of ")
        })
    })?;
    assert!(guard.done(&["verify"])?.len() > 10);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_poisoned_answer_is_refused_whole_and_the_old_addresses_stay() -> Result<()> {
    let bed = Bed::new()?;
    let mut server = NameServer::start_in(&bed.server.namespace, &[("home", "198.51.100.3")])?;
    let (guard, _files) = guard(&bed, &allowing("\"home.example\""))?;
    until("the first answer", PATIENCE, || passes(&bed, OLD).is_ok_and(|passes| passes))?;
    let generation = guard.status()?.generation()?;
    let pool: Vec<_> = (1..=33).map(|n| format!("198.51.100.{n}")).collect();
    let pool: Vec<_> = pool.iter().map(|address| ("home", address.as_str())).collect();
    for (records, expected) in [
        (&[("home", "198.51.100.4"), ("home", "127.0.0.1")][..], "127.0.0.1 is loopback"),
        (&[("home", "198.51.100.4"), ("home", "0.0.0.0")], "0.0.0.0 is no host's address"),
        (&[("home", "198.51.100.4"), ("home", "224.0.0.1")], "224.0.0.1 is multicast"),
        (&[("home", "198.51.100.4"), ("home", "::1")], "::1 is loopback"),
        // So long an answer comes by TCP.
        (&pool, "the answer has 33 addresses"),
    ] {
        server.set(records)?;
        asked_again(&guard, expected, || {
            status_line(&guard, "home").is_ok_and(|line| line.contains(expected))
        })?;
        assert!(passes(&bed, OLD)? && !passes(&bed, NEW)?, "{expected}");
    }
    assert_eq!(guard.status()?.generation()?, generation);
    assert!(status_line(&guard, "home")?.contains("198.51.100.3, as of "));
    assert!(guard.log().contains("its addresses stay as they are"), "{}", guard.log());
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_a_name_server_the_last_addresses_are_kept_over_restarts() -> Result<()> {
    let bed = Bed::new()?;
    let server = NameServer::start_in(&bed.server.namespace, &[("home", "198.51.100.3")])?;
    let (mut guard, files) =
        guard(&bed, &allowing("\"home.example\", \"never.nowhere.test\", \"host:home\""))?;
    until("the first answer", PATIENCE, || passes(&bed, OLD).is_ok_and(|passes| passes))?;
    drop(server);
    asked_again(&guard, "the failure", || {
        status_line(&guard, "home").is_ok_and(|line| line.contains("NOT RESOLVED since: "))
    })?;
    assert!(passes(&bed, OLD)?);
    guard.stop()?;
    guard.start()?;
    assert!(passes(&bed, OLD)?, "from what was kept, before any answer");
    guard.kill9()?;
    guard.start()?;
    assert!(passes(&bed, OLD)?);
    // What never had an answer is nobody, loudly.
    until("the loud line", PATIENCE, || {
        guard.cli(&["status"]).is_ok_and(|status| {
            status
                .stdout
                .contains("NAME     allow never.nowhere.test: NEVER RESOLVED, so that nobody")
        })
    })?;
    // `home` alone is not `home.example`, though that is a search domain of this host.
    let status = guard.cli(&["status"])?;
    assert!(status.stdout.contains("NAME     allow host:home: "), "{}", status.stdout);
    // The host's own files are followed: first the name servers, then the hosts file before them.
    let mut server = NameServer::start_in(&bed.server.namespace, &[("home", "198.51.100.4")])?;
    asked_again(&guard, "the server that is back", || passes(&bed, NEW).is_ok_and(|one| one))?;
    files.set_hosts("198.51.100.3 home.example # by hand\n")?;
    until("the hosts file", PATIENCE, || passes(&bed, OLD).is_ok_and(|passes| passes))?;
    assert!(!passes(&bed, NEW)?);
    server.set(&[])?;
    files.set_hosts("")?;
    until("the empty hosts file", PATIENCE, || !passes(&bed, OLD).unwrap_or(true))?;
    server.set(&[("home", "198.51.100.4")])?;
    files.ask("127.0.0.2")?;
    files.ask("127.0.0.1")?;
    until("resolv.conf", PATIENCE, || passes(&bed, NEW).is_ok_and(|passes| passes))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn names_are_added_and_removed_by_command_and_what_that_means_is_said() -> Result<()> {
    let bed = Bed::new()?;
    let _server = NameServer::start_in(&bed.server.namespace, &[("home", "198.51.100.3")])?;
    let (mut guard, _files) = guard(&bed, &allowing("\"198.51.100.9\""))?;
    let added = guard.cli(&["allow", "add", "home.example", "--comment", "Ada"])?;
    assert!(added.succeeded(), "{added:?}");
    assert!(added.stderr.contains("whoever answers for home.example in DNS decides"), "{added:?}");
    until("the answer", PATIENCE, || passes(&bed, OLD).is_ok_and(|passes| passes))?;
    let list = guard.done(&["allow", "list"])?;
    assert!(list.contains("name home.example: Ada"), "{list}");
    assert!(
        list.contains("NAME          ORIGIN") && list.contains("looked up again in "),
        "{list}"
    );
    let json: serde_json::Value = serde_json::from_str(&guard.done(&["allow", "list", "--json"])?)?;
    assert_eq!(json["names"][0]["addresses"][0], "198.51.100.3");
    assert!(json["names"][0]["resolved"].is_string() && json["names"][0]["next"].is_string());
    // Denied by name, whoever allows it.
    let denied = guard.cli(&["deny", "add", "home.example"])?;
    assert!(denied.stderr.contains("can take another address"), "{denied:?}");
    assert!(!passes(&bed, OLD)?, "the answer is known already");
    guard.done(&["deny", "remove", "home.example"])?;
    assert!(passes(&bed, OLD)?);
    guard.stop()?;
    guard.start()?;
    assert!(passes(&bed, OLD)?);
    let alone = guard.cli(&["allow", "remove", "198.51.100.3"])?;
    assert_eq!(alone.code, Some(2), "{alone:?}");
    guard.done(&["allow", "remove", "home.example"])?;
    assert!(!passes(&bed, OLD)?);
    for (wrong, expected) in [
        ("printer", "host:NAME for one without"),
        ("*.example", "has a star"),
        ("bücher.example", "idn2"),
        ("a-.example", "no host name"),
    ] {
        let refused = guard.cli(&["allow", "add", wrong])?;
        assert_eq!(refused.code, Some(2), "{wrong}: {refused:?}");
        assert!(refused.stderr.contains(expected), "{wrong}: {}", refused.stderr);
    }
    Ok(())
}

/// The rules that it comes to hold where the rule about the name does.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_name_for_a_service_or_some_interfaces_lets_its_addresses_in_there_alone() -> Result<()> {
    let bed = Bed::new()?;
    let mut server = NameServer::start_in(&bed.server.namespace, &[("home", "198.51.100.3")])?;
    let config = format!(
        "[[service]]\nname = \"ollama\"\nallow = [\"{FRIEND4}\"]\n\
         [[service]]\nname = \"web\"\nports = [\"{WEB}\"]\n\
         allow = [{{ from = \"home.example\", on = [\"{SERVER_DOOR}\"] }}]\n"
    );
    let (mut guard, _files) = guard(&bed, &config)?;
    let reaches = |source| -> Result<[bool; 2]> {
        Ok([passes_to(&bed, source, GUARDED)?, passes_to(&bed, source, WEB)?])
    };
    let only_web = |source| reaches(source).is_ok_and(|found| found == [false, true]);
    until("the first answer", PATIENCE, || only_web(OLD))?;
    server.set(&[("home", "198.51.100.4")])?;
    asked_again(&guard, "the other answer", || only_web(NEW))?;
    assert_eq!(reaches(OLD)?, [false, false]);
    // The same name once more, for the other service.
    let added = guard.done(&["allow", "add", "home.example", "--service", "ollama"])?;
    assert!(added.contains("added 1 allow rule: home.example"), "{added}");
    assert_eq!(reaches(NEW)?, [true, true], "the answer is known already");
    let on_the_web = format!("for web, on {SERVER_DOOR}");
    let list = guard.done(&["allow", "list"])?;
    for limits in ["for ollama", &on_the_web] {
        assert!(list.matches(limits).count() >= 2, "the name and its address {limits}: {list}");
    }
    let status = guard.cli(&["status"])?.stdout;
    assert!(status.contains(&format!("allow home.example {on_the_web}: 198.51.100.4")), "{status}");
    let (source, port) = (NEW.to_string(), WEB.to_string());
    let asked = ["explain", &source, "--port", &port, "--interface", SERVER_DOOR];
    let explained = guard.done(&asked)?;
    assert!(explained.contains(&format!("{on_the_web} (")), "{explained}");
    assert!(explained.contains("name home.example"), "{explained}");
    assert!(guard.done(&["verify"])?.len() > 10);
    // Over a restart, and taken away again where it was added.
    guard.stop()?;
    guard.start()?;
    assert_eq!(reaches(NEW)?, [true, true]);
    guard.done(&["allow", "remove", "home.example", "--service", "ollama"])?;
    assert_eq!(reaches(NEW)?, [false, true]);
    let refused = guard.cli(&["allow", "remove", "home.example"])?;
    assert!(refused.stderr.contains("config.toml"), "{refused:?}");
    Ok(())
}

/// A trial is no reason not to follow a name, and what is tried goes whole.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_name_on_trial_goes_with_it_and_others_are_followed_meanwhile() -> Result<()> {
    let bed = Bed::new()?;
    let _server = NameServer::start_in(&bed.server.namespace, &[])?;
    let (mut guard, files) = guard(&bed, &allowing("\"home.example\""))?;
    let at =
        |home: Ipv4Addr| files.set_hosts(&format!("{home} home.example\n{GUEST} guest.example\n"));
    let passes = |source| passes(&bed, source);
    at(OLD)?;
    until("the first answer", PATIENCE, || passes(OLD).is_ok_and(|passes| passes))?;
    let looked = guard.cli(&["allow", "add", "guest.example", "--dry-run"])?;
    let said = format!("{}{}", looked.stdout, looked.stderr);
    assert!(looked.succeeded() && said.contains("guest.example is looked up once it is"), "{said}");
    guard.done(&["allow", "add", "guest.example", "--confirm", "1m"])?;
    until("the guest", PATIENCE, || passes(GUEST).is_ok_and(|passes| passes))?;
    at(NEW)?;
    until("the other answer", PATIENCE, || passes(NEW).is_ok_and(|passes| passes))?;
    assert!(!passes(OLD)? && passes(GUEST)?);
    guard.done(&["revert"])?;
    assert!(passes(NEW)? && passes(FRIEND4)? && !passes(OLD)? && !passes(GUEST)?);
    assert!(!guard.done(&["allow", "list"])?.contains("guest.example"));
    assert!(guard.done(&["verify"])?.len() > 10);
    // The kernel takes back by itself what it has by then, whatever has become of the daemon.
    guard.done(&["allow", "add", "guest.example", "--confirm", "8s"])?;
    at(OLD)?;
    until("the guest again", PATIENCE, || passes(GUEST).is_ok_and(|passes| passes))?;
    until("the first answer again", PATIENCE, || passes(OLD).is_ok_and(|passes| passes))?;
    // It is in force a moment before it is kept.
    let kept = guard.state_dir().join("names.json");
    until("it to be kept", PATIENCE, || {
        fs::read_to_string(&kept).is_ok_and(|text| text.contains(&OLD.to_string()))
    })?;
    guard.kill9()?;
    until("the end of the trial", PATIENCE, || !passes(GUEST).unwrap_or(true))?;
    assert!(passes(OLD)? && passes(FRIEND4)? && !passes(NEW)?);
    guard.start()?;
    assert!(passes(OLD)? && !passes(GUEST)? && !passes(NEW)?);
    guard.done(&["allow", "add", "guest.example", "--confirm", "1m"])?;
    until("the guest once more", PATIENCE, || passes(GUEST).is_ok_and(|passes| passes))?;
    guard.done(&["confirm"])?;
    assert!(passes(GUEST)?);
    guard.stop()?;
    guard.start()?;
    assert!(passes(GUEST)? && passes(OLD)?, "from what was kept");
    Ok(())
}
