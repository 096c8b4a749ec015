//! The Debian package in a real Debian, booted by a real systemd: installed, upgraded, rebooted with a broken
//! configuration, removed and purged, with a server behind it and strangers at it all the time.
//!
//! Long because it is one story, told in the order in which an administrator lives through it.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bed::{
        Answer, Bed, Finished, SERVER_DOOR, Standin, everyone_is_served, get,
        only_the_friend_is_served, until,
    },
    machine::Machine,
    policy::{FRIEND4, GUARDED, SERVER4, SERVER6, STRANGER4},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// So long the stranger waits for each answer, and starts anew.
const KNOCK: Duration = Duration::from_millis(300);
/// The machine's only network: what an administrator's tools do after `network-pre.target`.
const NETWORK: &str = "/etc/systemd/system/door.service";

/// What the story needs.
#[derive(Clone, Copy, Debug)]
pub struct Props<'p> {
    /// A Debian in a directory.
    pub base: &'p Path,
    /// The package.
    pub package: &'p Path,
    /// The same with a higher version.
    pub newer: &'p Path,
    /// Where the machine's files may be.
    pub work: &'p Path,
}

/// Plays it. `say` is told each chapter.
///
/// # Errors
///
/// At the first thing that is not as it should be.
pub fn play(props: &Props<'_>, say: &dyn Fn(&str)) -> Result<()> {
    let bed = Bed::new()?;
    let _server = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut machine = Machine::copied_from(props.base, props.work, &bed.server.namespace)?;
    prepare(&machine)?;
    for (from, name) in [(props.package, "old.deb"), (props.newer, "new.deb")] {
        std::fs::copy(from, machine.path(name))
            .with_context(|| format!("copying {}", from.display()))?;
    }
    machine.boot()?;
    everyone_is_served(&bed)?;
    Story { bed: &bed, say }.tell(&mut machine).map_err(|error| {
        let journal = machine.run("journalctl -b -u ollama-guard -n 60 --no-pager");
        let journal = journal.map(|finished| finished.stdout).unwrap_or_default();
        error.context(format!("the last that the guard has said:\n{journal}"))
    })?;
    machine.power_off()
}

struct Story<'s> {
    bed: &'s Bed,
    say: &'s dyn Fn(&str),
}

/// A network that comes up when systemd says so, and an Ollama.
fn prepare(machine: &Machine<'_>) -> Result<()> {
    let networks = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"];
    let networks6 = ["2001:db8:1::/64", "2001:db8:7::/64", "2001:db8:bad::/64"];
    let mut steps = vec![
        format!("ip link set {SERVER_DOOR} up"),
        format!("ip address replace {SERVER4}/24 dev {SERVER_DOOR}"),
        format!("ip address replace {SERVER6}/64 dev {SERVER_DOOR} nodad"),
    ];
    let routes = networks.iter().chain(&networks6);
    steps.extend(routes.map(|network| format!("ip route replace {network} dev {SERVER_DOOR}")));
    let steps: String = steps.iter().map(|step| format!("ExecStart={step}\n")).collect();
    machine.write(
        NETWORK,
        &format!(
            "[Unit]\nDefaultDependencies=no\nAfter=network-pre.target\nWants=network-pre.target\n\
             [Service]\nType=oneshot\nRemainAfterExit=yes\n{steps}[Install]\nWantedBy=multi-user.target\n"
        ),
    )?;
    machine.write(
        "/etc/systemd/system/ollama.service",
        "[Service]\nExecStart=sleep infinity\n[Install]\nWantedBy=multi-user.target\n",
    )?;
    // A veth is the container's plumbing, and no door by itself.
    machine.write(
        "/etc/ollama-guard/config.d/10-interfaces.toml",
        // Nor is its cgroup the machine's.
        &format!("interfaces = [\"{SERVER_DOOR}\"]\n[inner]\nenable = false\n"),
    )?;
    for unit in ["door", "ollama"] {
        let wants = machine.path("/etc/systemd/system/multi-user.target.wants");
        std::fs::create_dir_all(&wants)?;
        std::os::unix::fs::symlink(
            format!("/etc/systemd/system/{unit}.service"),
            wants.join(format!("{unit}.service")),
        )?;
    }
    Ok(())
}

impl Story<'_> {
    fn tell(&self, machine: &mut Machine<'_>) -> Result<()> {
        self.install(machine)?;
        self.learn(machine)?;
        self.enforce(machine)?;
        self.see(machine)?;
        self.log(machine)?;
        self.reload(machine)?;
        self.upgrade(machine)?;
        self.survive(machine)?;
        self.reboot(machine)?;
        self.require(machine)?;
        self.remove(machine)?;
        self.purge(machine)
    }

    fn install(&self, machine: &Machine<'_>) -> Result<()> {
        (self.say)("installing locks nobody out, and says so");
        let said = machine.done("dpkg -i /old.deb 2>&1")?;
        ensure!(said.contains("OBSERVE MODE") && !said.contains("NOT RUNNING"), "{said}");
        let status = machine.done("systemctl show ollama-guard -p ActiveState,StatusText,Type")?;
        ensure!(status.contains("ActiveState=active"), "{status}");
        ensure!(status.contains("OBSERVING, nothing is dropped, on 1 interface"), "{status}");
        everyone_is_served(self.bed)?;
        let status = machine.run("ollama-guard status")?;
        ensure!(status.code == Some(1) && status.stdout.starts_with("OBSERVING"), "{status:?}");
        // Who would be locked out.
        until_said(machine, "timeout 2 ollama-guard events", "203.0.113.66")?;
        let user = machine.done("ps -o user= -C ollama-guard")?;
        ensure!(user.trim().starts_with("ollama"), "it runs as {user}");
        let directories = "stat -c '%U:%G %a %n' /etc/ollama-guard /var/lib/ollama-guard \
                           /run/ollama-guard /sys/fs/bpf/ollama-guard";
        let directories = machine.done(directories)?;
        for expected in [
            "root:root 755 /etc/ollama-guard",
            "ollama-guard:ollama-guard 700 /var/lib/ollama-guard",
            "ollama-guard:ollama-guard 750 /run/ollama-guard",
            "ollama-guard:ollama-guard 700 /sys/fs/bpf/ollama-guard",
        ] {
            ensure!(directories.contains(expected), "{expected}: {directories}");
        }
        ensure!(machine.run("man -w ollama-guard; bash -n /usr/share/bash-completion/completions/ollama-guard")?.succeeded());
        Ok(())
    }

    fn learn(&self, machine: &Machine<'_>) -> Result<()> {
        (self.say)("`learn` proposes whom to let in, as a file for `allow replace`");
        let said = thread::scope(|scope| {
            let learning = scope
                .spawn(|| machine.done("ollama-guard learn --minutes 1 --output /proposal 2>&1"));
            while !learning.is_finished() {
                everyone_is_served(self.bed)?;
                thread::sleep(Duration::from_secs(5));
            }
            learning.join().unwrap_or_else(|_| bail!("learning has panicked"))
        })?;
        ensure!(said.contains("written to /proposal"), "{said}");
        // Strangers who found the open port have talked, too: whoever reads the file takes them out.
        let friend6 = "2001:db8:7:";
        let edited =
            format!("grep -e '^{FRIEND4} ' -e '^{friend6}' /proposal > /list; cat /list /proposal");
        let text = machine.done(&edited)?;
        let would = machine.done("ollama-guard allow replace /list --dry-run")?;
        ensure!(
            would.contains("a dry run") && would.contains("added 2 allow rules"),
            "{would}{text}"
        );
        let done = machine.done("ollama-guard allow replace /list")?;
        ensure!(done.contains(&format!("added 2 allow rules: {FRIEND4}, {friend6}")), "{done}");
        everyone_is_served(self.bed)
    }

    fn enforce(&self, machine: &Machine<'_>) -> Result<()> {
        (self.say)("one command enforces, on trial, and another one makes it stay");
        let said = machine.done("ollama-guard mode enforce --confirm 20s")?;
        ensure!(said.contains("ON TRIAL"), "{said}");
        only_the_friend_is_served(self.bed)?;
        until_said(machine, "ollama-guard status", "OBSERVING")?;
        everyone_is_served(self.bed)?;
        machine.done("ollama-guard mode enforce --confirm 60s")?;
        machine.done("ollama-guard confirm")?;
        until_said(machine, "ollama-guard status", "ENFORCING")?;
        only_the_friend_is_served(self.bed)?;
        let verified = machine.run("ollama-guard verify")?;
        ensure!(verified.succeeded(), "{verified:?}");
        Ok(())
    }

    fn see(&self, machine: &Machine<'_>) -> Result<()> {
        (self.say)("`explain` answers why, `top` and Prometheus show the attack");
        let why = machine.run(&format!("ollama-guard explain {STRANGER4}"))?;
        ensure!(why.code == Some(1) && why.stdout.contains("not-listed"), "{why:?}");
        let why = machine.run(&format!("ollama-guard explain {FRIEND4}"))?;
        ensure!(why.succeeded() && why.stdout.contains("learned"), "{why:?}");
        let top = machine.done("ollama-guard top --once")?;
        ensure!(top.contains(&STRANGER4.to_string()) && top.contains("not-listed"), "{top}");
        let url = "http://127.0.0.1:9434/metrics";
        let curl = self.bed.server.namespace.run("curl", &["-s", url], PATIENCE)?;
        let is_drop = |line: &str| {
            line.starts_with("ollama_guard_packets_total{verdict=\"drop\",reason=\"not-listed\"")
                && !line.ends_with(" 0")
        };
        ensure!(curl.stdout.lines().any(is_drop), "{}", curl.stdout);
        Ok(())
    }

    fn log(&self, machine: &Machine<'_>) -> Result<()> {
        (self.say)("the journal has it, with fields");
        let lines = machine.done("journalctl -u ollama-guard -o json -t ollama-guard")?;
        let entries: Vec<serde_json::Value> =
            lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let ready = entries.iter().find(|entry| entry["MESSAGE"] == "ready");
        let ready = ready.with_context(|| format!("nobody is ready: {lines}"))?;
        ensure!(ready["PRIORITY"] == "6", "{ready}");
        ensure!(ready["OLLAMA_GUARD_DOORS"] == "1", "{ready}");
        ensure!(ready["_TRANSPORT"] == "journal", "{ready}");
        // Also what a confined daemon says: nothing was lost behind the walls.
        let enforced = |entry: &serde_json::Value| {
            entry["MESSAGE"]
                .as_str()
                .is_some_and(|text| text.contains("`mode enforce`: generation"))
        };
        ensure!(entries.iter().any(enforced), "{lines}");
        // None of the daemon's walls falls over the unit's.
        let walls = |entry: &serde_json::Value| {
            entry["MESSAGE"].as_str().is_some_and(|text| text.contains("writes beneath /var/lib/"))
        };
        ensure!(entries.iter().any(walls), "not all walls are up: {lines}");
        let mistakes = machine.done("journalctl -u ollama-guard -p err -o cat")?;
        ensure!(mistakes.is_empty() || mistakes.contains("-- No entries --"), "{mistakes}");
        Ok(())
    }

    fn reload(&self, machine: &Machine<'_>) -> Result<()> {
        (self.say)("`systemctl reload` puts a good file in force, and refuses a bad one");
        machine.done("systemctl reload ollama-guard")?;
        machine.done("echo 'mode = \"enfocre\"' > /etc/ollama-guard/config.d/60-slip.toml")?;
        let refused = machine.run("systemctl reload ollama-guard")?;
        ensure!(!refused.succeeded(), "{refused:?}");
        let status = machine.run("ollama-guard status")?;
        ensure!(
            status.code == Some(1) && status.stdout.contains("CONFIGURATION REJECTED"),
            "{status:?}"
        );
        only_the_friend_is_served(self.bed)?;
        // Started again with it, it is the last good one.
        machine.done("systemctl restart ollama-guard")?;
        let status = machine.run("ollama-guard status")?;
        ensure!(status.stdout.contains("the last good one, of "), "{status:?}");
        only_the_friend_is_served(self.bed)?;
        machine.done("rm /etc/ollama-guard/config.d/60-slip.toml; ollama-guard reload")?;
        machine.done("ollama-guard status").map(drop)
    }

    fn upgrade(&self, machine: &Machine<'_>) -> Result<()> {
        (self.say)("an upgrade leaves no gap, and the counters");
        let before = dropped(machine)?;
        ensure!(before > 0, "nothing was dropped so far");
        let process = machine.done("systemctl show ollama-guard -p MainPID")?;
        let mut said = String::new();
        self.never_served(|| {
            said = machine.done("dpkg -i /new.deb 2>&1")?;
            Ok(())
        })?;
        ensure!(!said.contains("NOT RUNNING") && !said.contains("OBSERVE MODE"), "{said}");
        ensure!(
            machine.done("systemctl show ollama-guard -p MainPID")? != process,
            "it is the old one"
        );
        until_said(machine, "ollama-guard status", "ENFORCING")?;
        ensure!(dropped(machine)? >= before, "the counters are gone");
        let log = machine.done("journalctl -u ollama-guard -o cat")?;
        ensure!(log.contains("adopted, without a gap"), "{log}");
        ensure!(machine.done("ollama-guard allow list")?.contains(&FRIEND4.to_string()));
        only_the_friend_is_served(self.bed)
    }

    fn survive(&self, machine: &Machine<'_>) -> Result<()> {
        (self.say)("killed, it is started again");
        let process = machine.done("systemctl show ollama-guard -p MainPID")?;
        self.never_served(|| {
            machine.done("systemctl kill -s KILL ollama-guard")?;
            until("another process", PATIENCE, || {
                machine.run("systemctl is-active ollama-guard").is_ok_and(|state| state.succeeded())
                    && machine
                        .done("systemctl show ollama-guard -p MainPID")
                        .is_ok_and(|now| now != process)
            })
        })?;
        (self.say)("stopped, it leaves the filter");
        self.never_served(|| machine.done("systemctl stop ollama-guard").map(drop))?;
        only_the_friend_is_served(self.bed)?;
        machine.done("systemctl start ollama-guard").map(drop)
    }

    fn reboot(&self, machine: &mut Machine<'_>) -> Result<()> {
        (self.say)(
            "rebooted with a broken file, it has the last good policy before there is a network",
        );
        machine.done("echo 'allow = [' > /etc/ollama-guard/config.d/60-slip.toml")?;
        machine.power_off()?;
        let door = &self.bed.server.namespace;
        everyone_is_served(self.bed).context("the machine is off, and pins are gone with it")?;
        door.ip(&["link", "set", SERVER_DOOR, "down"])?;
        door.ip(&["address", "flush", "dev", SERVER_DOOR])?;
        self.never_served(|| {
            machine.boot()?;
            until_said(machine, "ollama-guard status", "the last good one, of ").map(drop)
        })?;
        only_the_friend_is_served(self.bed)?;
        // In the order of the promise.
        let times = |unit: &str, property: &str| -> Result<u64> {
            let line = machine.done(&format!("systemctl show {unit} -p {property} --value"))?;
            line.trim().parse().with_context(|| format!("{unit}: {line}"))
        };
        let ready = times("ollama-guard", "ActiveEnterTimestampMonotonic")?;
        let network = times("door", "ExecMainStartTimestampMonotonic")?;
        let ollama = times("ollama", "ExecMainStartTimestampMonotonic")?;
        ensure!(ready > 0 && ready <= network && ready <= ollama, "{ready} {network} {ollama}");
        let failed = machine.done("systemctl --failed --plain --no-legend")?;
        ensure!(!failed.contains("ollama"), "{failed}");
        let cycles = machine.done("journalctl -b -o cat | grep -i 'ordering cycle' || true")?;
        ensure!(cycles.is_empty(), "{cycles}");
        Ok(())
    }

    fn require(&self, machine: &mut Machine<'_>) -> Result<()> {
        (self.say)("with the drop-in, there is no Ollama without a guard");
        let text =
            machine.done("cat /usr/share/ollama-guard/ollama.service.d/ollama-guard.conf")?;
        // The command as it stands there.
        let command: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("#   "))
            .map(|line| line.trim().trim_end_matches('\\'))
            .collect();
        ensure!(command.len() == 2, "{text}");
        machine.done(&command.join(" "))?;
        machine.done("systemctl restart ollama-guard && systemctl is-active ollama")?;
        // Neither a good file nor an earlier one.
        machine.done("rm /var/lib/ollama-guard/last-good-configuration")?;
        machine.power_off()?;
        machine.boot()?;
        ensure!(!machine.run("systemctl is-active ollama")?.succeeded(), "Ollama runs");
        let state = machine.run("systemctl is-active ollama-guard")?;
        ensure!(!state.succeeded(), "{state:?}");
        machine.done("rm /etc/ollama-guard/config.d/60-slip.toml")?;
        machine.done("systemctl reset-failed ollama-guard; systemctl start ollama-guard ollama")?;
        only_the_friend_is_served(self.bed)
    }

    fn remove(&self, machine: &Machine<'_>) -> Result<()> {
        (self.say)("removed, it leaves the filter and says so");
        let mut said = String::new();
        self.never_served(|| {
            said = machine.done("dpkg -r ollama-guard 2>&1")?;
            Ok(())
        })?;
        ensure!(said.contains("STAYS IN THE KERNEL"), "{said}");
        // The drop-in stops Ollama with it, and the way back is told whole.
        ensure!(said.contains("Ollama HAS BEEN STOPPED"), "{said}");
        ensure!(!machine.run("systemctl is-active ollama")?.succeeded(), "Ollama runs");
        let mut lines = said.lines().map(str::trim);
        let way_back = lines
            .find(|line| line.starts_with("rm /etc/systemd/system/ollama.service.d"))
            .context("the way back")?;
        let drop_in = "/etc/systemd/system/ollama.service.d/ollama-guard.conf";
        machine.done(&format!("cp {drop_in} /drop-in"))?;
        machine.done(way_back)?;
        machine.done("systemctl is-active ollama")?;
        // Back for the purge, which takes it away by itself.
        machine.done(&format!("cp /drop-in {drop_in}"))?;
        ensure!(!machine.run("command -v ollama-guard")?.succeeded(), "the program is there");
        only_the_friend_is_served(self.bed)
    }

    fn purge(&self, machine: &Machine<'_>) -> Result<()> {
        (self.say)("purged, nothing of it is left");
        machine.done("dpkg -P ollama-guard 2>&1")?;
        everyone_is_served(self.bed)?;
        let left = machine.done(
            "ls -d /etc/ollama-guard /var/lib/ollama-guard* /run/ollama-guard /sys/fs/bpf/ollama-guard \
             /usr/share/ollama-guard /etc/systemd/system/ollama.service.d \
             /etc/systemd/system/*/ollama-guard.service /var/lib/systemd/deb-systemd-helper-enabled/*guard* \
             2>/dev/null || true",
        )?;
        ensure!(left.is_empty(), "left behind: {left}");
        Ok(())
    }

    /// Does something while a stranger knocks all the time, who never gets a word out of the server.
    fn never_served(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let (stop, knocks) = (AtomicBool::new(false), AtomicUsize::new(0));
        let stranger = &self.bed.stranger4;
        thread::scope(|scope| {
            let knocking = scope.spawn(|| -> Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    let server = stranger.servers(GUARDED)[0];
                    match get(&stranger.namespace, server, "/", KNOCK) {
                        Ok(Answer::Served(_) | Answer::Broken(_)) => bail!("a stranger was let in"),
                        // While there is no network, there is no way.
                        _ => thread::sleep(Duration::from_millis(1)),
                    }
                    knocks.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
            let done = work();
            stop.store(true, Ordering::Relaxed);
            let knocked = knocking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            done?;
            knocked
        })?;
        ensure!(knocks.into_inner() > 0, "the stranger never knocked");
        Ok(())
    }
}

fn until_said(machine: &Machine<'_>, line: &str, wanted: &str) -> Result<Finished> {
    let mut last = None;
    until(&format!("`{line}` to say {wanted}"), PATIENCE, || {
        let finished = machine.run(line);
        let is_said = finished.as_ref().is_ok_and(|finished| finished.stdout.contains(wanted));
        last = Some(finished);
        is_said
    })
    .with_context(|| format!("{last:?}"))?;
    last.context("it was not tried")?
}

/// Packets that were dropped so far.
fn dropped(machine: &Machine<'_>) -> Result<u64> {
    let status: serde_json::Value =
        serde_json::from_str(&machine.done("ollama-guard status --json")?)?;
    status["books"]["enforce"]["dropped"].as_u64().with_context(|| format!("no counter: {status}"))
}
