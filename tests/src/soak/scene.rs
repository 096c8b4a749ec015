//! A bed, a guard, and what chance does to it.
//!
//! Long because everything that can be done to a guard is in one list.

use std::{
    collections::BTreeSet,
    fmt, fs,
    ops::AddAssign,
    process::Stdio,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use ollama_guard_common::Mode;
use serde_json::{Value, json};

use super::{
    sample::{Held, Sample},
    traffic::Traffic,
};
use crate::{
    bed::{
        Bed, Book, Guard, GuardSetup, Objects, Process, SERVER_DOOR, Standin,
        only_the_friend_is_served, pins, start, until, until_some, xdp_program_id,
    },
    oracle::dice::Dice,
    policy::{FRIEND4, FRIEND6, GUARDED},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than the keeper's pause between two rounds.
const KEEPER: Duration = Duration::from_millis(2500);
const WARMING_EDITS: usize = 1500;
/// Interfaces and event readers at the same time.
const INTERFACES: usize = 4;
const READERS: usize = 3;
/// Prefixes that come and go: nobody's who sends.
const PREFIXES: u64 = 60;
/// What the allowlist holds at every quiet point, beside the friend.
const BASE: [&str; 2] = ["198.51.100.0/25", "2001:db8:2::/48"];
/// The last interface is called `door9`: names come again.
const NAMES: usize = 9;

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    edits: u64,
    interfaces: u64,
    readers: u64,
    kills: u64,
    killed_at_an_edit: u64,
    sent: u64,
    dropped: u64,
    served: u64,
}

/// One of the scenes.
#[derive(Debug)]
pub(super) struct Scene<'bed> {
    name: &'static str,
    kills: bool,
    bed: &'bed Bed,
    guard: Guard<'bed>,
    _standin: Standin,
    traffic: Arc<Traffic<'bed>>,
    dice: Dice,
    allowed: BTreeSet<String>,
    denied: BTreeSet<String>,
    interfaces: Vec<String>,
    made: usize,
    readers: Vec<Process>,
    tally: Tally,
    findings: Vec<String>,
}

impl<'bed> Scene<'bed> {
    /// Starts a guard and everything around it.
    pub(super) fn new(bed: &'bed Bed, name: &'static str, kills: bool, seed: u64) -> Result<Self> {
        let setup = GuardSetup::of("door*").attach("native").allow(FRIEND4);
        let guard = setup.start(&bed.server.namespace)?;
        // Half of the friend is in the lists that are edited.
        let friend = FRIEND6.to_string();
        guard.done(&["allow", "add", &friend])?;
        Ok(Self {
            name,
            kills,
            bed,
            guard,
            _standin: Standin::start_in(&bed.server.namespace, GUARDED)?,
            traffic: Arc::new(Traffic::new(bed)?),
            dice: Dice::new(seed),
            allowed: BTreeSet::from([friend]),
            denied: BTreeSet::new(),
            interfaces: Vec::new(),
            made: 0,
            readers: Vec::new(),
            tally: Tally::default(),
            findings: Vec::new(),
        })
    }

    /// Brings the daemon's memory to rest, beside which a leak would not show: its journal keeps a
    /// thousand events, which two sources fill in minutes, and an allocator touches its pages one by
    /// one, for more than a thousand edits.
    pub(super) fn warm_up(&mut self) -> Result<()> {
        self.tally.sent += self.traffic.crowd()?;
        for number in 0..WARMING_EDITS {
            let prefixes = (0..if number % 2 == 0 { 30 } else { 3 }).map(|_| self.prefix());
            let mut prefixes: BTreeSet<_> = prefixes.collect();
            prefixes.insert(FRIEND6.to_string());
            let rules: Vec<_> = prefixes.iter().map(|prefix| json!({ "prefix": prefix })).collect();
            let body = json!({ "effect": "allow", "rules": rules }).to_string();
            self.guard.ask("POST", "/v1/rules/replace", &body)?;
            self.allowed = prefixes;
        }
        Ok(())
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// Things happen under traffic, for so long.
    pub(super) fn round(&mut self, length: Duration) -> Result<()> {
        let end = Instant::now() + length;
        let traffic = Arc::clone(&self.traffic);
        let told = traffic.during(|| {
            while Instant::now() < end {
                self.something()?;
            }
            Ok(())
        });
        let told = told.with_context(|| format!("{}: {}", self.name, self.guard.log()))?;
        self.tally.sent += told.sent;
        self.tally.served += told.served;
        if told.served == 0 || !told.failures.is_empty() {
            self.finding(format!(
                "the friend was served {} times: {:?}",
                told.served, told.failures
            ));
        }
        Ok(())
    }

    fn finding(&mut self, finding: String) {
        self.findings.push(format!("{}: {finding}", self.name));
    }

    fn something(&mut self) -> Result<()> {
        let (kill, stall) = if self.kills { (6, 0) } else { (0, 6) };
        let choices = [(20, 0), (20, 1), (10, 2), (15, 3), (10, 4), (kill, 5), (stall, 6)];
        match self.dice.weighted(&choices) {
            0 => self.edit("allow"),
            1 => self.edit("deny"),
            2 => self.replace().map(drop),
            3 => self.interface(),
            4 => self.reader(),
            5 => self.kill(),
            _ => self.stall(),
        }
    }

    fn prefix(&mut self) -> String {
        let number = 1 + self.dice.roll() % PREFIXES;
        if self.dice.chance(50) {
            format!("198.51.100.{}", 128 + number)
        } else {
            format!("2001:db8:3:{number:x}::/64")
        }
    }

    /// Adds a prefix that is not there, or removes one that is.
    fn edit(&mut self, list: &str) -> Result<()> {
        let prefix = self.prefix();
        let known = if list == "allow" { &mut self.allowed } else { &mut self.denied };
        let verb = if known.insert(prefix.clone()) {
            "add"
        } else {
            known.remove(&prefix);
            "remove"
        };
        self.guard.done(&[list, verb, &prefix])?;
        self.tally.edits += 1;
        Ok(())
    }

    /// Writes a list that chance makes, and gives its path.
    fn list(&mut self) -> Result<String> {
        self.allowed = (0..self.dice.below(30)).map(|_| self.prefix()).collect();
        self.allowed.insert(FRIEND6.to_string());
        let path = self.guard.file("list");
        let lines: Vec<_> = self.allowed.iter().map(String::as_str).collect();
        fs::write(&path, lines.join("\n") + "\n")?;
        self.guard.hand_over(&path)?;
        Ok(path.display().to_string())
    }

    fn replace(&mut self) -> Result<()> {
        let path = self.list()?;
        self.guard.done(&["allow", "replace", &path])?;
        self.tally.edits += 1;
        Ok(())
    }

    /// The daemon stands still for a moment.
    fn stall(&mut self) -> Result<()> {
        self.guard.signal(Signal::SIGSTOP)?;
        thread::sleep(Duration::from_micros(self.dice.roll() % 200_000));
        self.guard.signal(Signal::SIGCONT)
    }

    fn free_name(&mut self) -> String {
        loop {
            let name = format!("door{}", 1 + self.dice.below(NAMES));
            if !self.interfaces.contains(&name) {
                return name;
            }
        }
    }

    /// An interface comes, goes up, gets another name, or goes.
    fn interface(&mut self) -> Result<()> {
        let bed = self.bed;
        let namespace = &bed.server.namespace;
        self.tally.interfaces += 1;
        let chosen = match self.interfaces.len() {
            0 => None,
            there => Some(self.dice.below(there)),
        };
        let step = if self.interfaces.len() < INTERFACES { self.dice.below(4) } else { 3 };
        match (step, chosen) {
            (1, Some(chosen)) => namespace.ip(&["link", "set", &self.interfaces[chosen], "up"]),
            (2, Some(chosen)) => {
                let (old, new) = (self.interfaces[chosen].clone(), self.free_name());
                namespace.ip(&["link", "set", &old, "down"])?;
                namespace.ip(&["link", "set", &old, "name", &new])?;
                self.interfaces[chosen] = new.clone();
                namespace.ip(&["link", "set", &new, "up"])
            }
            (3, Some(chosen)) => {
                let name = self.interfaces.swap_remove(chosen);
                namespace.ip(&["link", "delete", &name])
            }
            _ => {
                self.made += 1;
                let name = self.free_name();
                let peer = format!("far{}", self.made);
                let id = self.made.to_string();
                let device: &[&str] = match self.dice.below(3) {
                    0 => &["link", "add", &name, "type", "vxlan", "id", &id, "dstport", "4789"],
                    1 => &["tuntap", "add", "dev", &name, "mode", "tun"],
                    _ => &["link", "add", &name, "type", "veth", "peer", "name", &peer],
                };
                namespace.ip(device)?;
                self.interfaces.push(name.clone());
                namespace.ip(&["link", "set", &name, "up"])
            }
        }
    }

    /// A reader of events comes, stalls, or goes.
    fn reader(&mut self) -> Result<()> {
        self.tally.readers += 1;
        let step = if self.readers.len() < READERS { self.dice.below(3) } else { 2 };
        if self.readers.is_empty() || step == 0 {
            let output = format!("events-{}", self.readers.len());
            self.readers.push(self.guard.follow(&["events", "--follow"], &output)?.0);
            return Ok(());
        }
        let chosen = self.dice.below(self.readers.len());
        if step == 1 {
            // One that has ended with its daemon can't be stopped.
            let _ = self.readers[chosen].signal(Signal::SIGSTOP);
            return Ok(());
        }
        self.readers.swap_remove(chosen).kill()
    }

    /// The daemon is killed at some moment, perhaps in an edit, and started again.
    fn kill(&mut self) -> Result<()> {
        self.tally.kills += 1;
        let pause = Duration::from_micros(self.dice.roll() % 40_000);
        let before = self.allowed.clone();
        match self.dice.below(3) {
            0 => _ = self.guard.stop()?,
            1 => {
                thread::sleep(pause);
                self.guard.kill9()?;
            }
            _ => {
                self.tally.killed_at_an_edit += 1;
                let path = self.list()?;
                let mut edit = self.guard.command(&["allow", "replace", &path]);
                // What it says is neither here nor there: the list tells.
                let mut edit = start(edit.stdout(Stdio::null()).stderr(Stdio::null()))?;
                thread::sleep(pause);
                self.guard.kill9()?;
                let is_done = edit.wait(PATIENCE)?.success();
                self.guard.start()?;
                return self.replaced_or_not(&before, is_done);
            }
        }
        thread::sleep(pause);
        self.guard.start()
    }

    /// After a daemon was killed in a replacement of its list: all of it is there or nothing, and
    /// all of it if the answer was that it is done.
    fn replaced_or_not(&mut self, before: &BTreeSet<String>, is_done: bool) -> Result<()> {
        let listed = added(&self.guard.done(&["allow", "list", "--json"])?)?;
        if listed != self.allowed && (is_done || listed != *before) {
            let (new, name) = (&self.allowed, self.name);
            self.findings.push(format!(
                "{name}: killed in an edit (done: {is_done}), and listed are {listed:?}: \
                 {before:?} before, {new:?} asked for"
            ));
        }
        self.allowed = listed;
        Ok(())
    }

    /// Brings everything to where it was behind every other round, and looks at it.
    pub(super) fn settle(&mut self) -> Result<()> {
        for mut reader in self.readers.drain(..) {
            reader.kill()?;
        }
        for name in self.interfaces.drain(..) {
            self.bed.server.namespace.ip(&["link", "delete", &name])?;
        }
        self.listed_as_edited()?;
        if self.kills {
            // All samples are of daemons of the same age.
            self.guard.kill9()?;
            self.guard.start()?;
        }
        let file = |name: &str, prefixes: &[&str]| -> Result<String> {
            let path = self.guard.file(name);
            let lines: String = prefixes.iter().map(|prefix| format!("{prefix}\n")).collect();
            fs::write(&path, lines)?;
            self.guard.hand_over(&path)?;
            Ok(path.display().to_string())
        };
        let friend = FRIEND6.to_string();
        let nothing = file("nothing", &[])?;
        let other = file("other", &[&friend])?;
        let base = file("base", &[&BASE[..], &[&friend]].concat())?;
        self.guard.done(&["deny", "replace", &nothing])?;
        // Two that change something, so that both slots of the policy are this daemon's.
        for list in [&other, &base] {
            self.guard.done(&["allow", "replace", list])?;
        }
        (self.allowed, self.denied) = (BASE.map(str::to_owned).into(), BTreeSet::new());
        self.allowed.insert(FRIEND6.to_string());
        until("only the one door to be there, and covered", PATIENCE, || {
            self.guard.status().is_ok_and(|status| {
                let doors = status.doors().unwrap_or_default();
                let mut covered = doors.iter().filter(|door| door.is_covered);
                covered.next().is_some_and(|door| door.name == SERVER_DOOR)
                    && covered.next().is_none()
                    && status.is_enforcing().unwrap_or(false)
            })
        })
        .with_context(|| format!("{}: {:?}", self.name, self.guard.status()))?;
        self.look()
    }

    /// What was asked for and answered is in the list, and nothing else.
    fn listed_as_edited(&mut self) -> Result<()> {
        for (list, known) in [("allow", &self.allowed), ("deny", &self.denied)] {
            let text = self.guard.done(&[list, "list", "--json"])?;
            let (listed, meant) = (added(&text)?, known);
            if listed != *meant {
                let finding = format!("{list} lists {listed:?} and not {meant:?}");
                self.findings.push(format!("{}: {finding}", self.name));
            }
        }
        Ok(())
    }

    /// Books, leaks, and who is served.
    fn look(&mut self) -> Result<()> {
        let book = self.quiet_book()?;
        if !book.balances() {
            self.finding(format!("the books do not balance: {book:?}"));
        }
        let status = self.guard.status()?;
        // The reader's side, over all daemons that there were.
        let (read, unread) = status.ring()?;
        if book.submitted != read + unread {
            self.finding(format!("the ring gave {read} and holds {unread}: {book:?}"));
        }
        let by_reason: u64 = status.drops(Mode::Enforce)?.values().sum();
        if by_reason != book.dropped {
            self.finding(format!("the reasons add up to {by_reason}: {book:?}"));
        }
        if book.dropped < self.tally.dropped {
            self.finding(format!("counters went back from {}: {book:?}", self.tally.dropped));
        }
        self.tally.dropped = book.dropped;
        let passed = self.traffic.passed();
        if passed > 0 {
            self.finding(format!("{passed} frames of strangers got past the door"));
        }
        let heard = self.traffic.heard();
        if heard < self.tally.served {
            self.finding(format!("behind the door only {heard} frames of the friend were heard"));
        }
        // Each of them is counted where it is dropped, but for what a full queue of the cable loses.
        if book.dropped < self.tally.sent / 2 {
            self.finding(format!("of {} frames of strangers: {book:?}", self.tally.sent));
        }
        if let Err(error) = only_the_friend_is_served(self.bed) {
            self.finding(format!("{error:#}"));
        }
        Ok(())
    }

    /// The books once no packet is in flight: two looks in a row say the same.
    fn quiet_book(&self) -> Result<Book> {
        let mut last = None;
        until_some("the books to be quiet", PATIENCE, || {
            let book = self.guard.status().and_then(|status| status.book(Mode::Enforce)).ok()?;
            (last.replace(book) == Some(book)).then_some(book)
        })
    }

    /// What the guard holds now.
    pub(super) fn sample(&self) -> Result<Sample> {
        let pid = self.guard.pid().context("no daemon")?;
        // It holds pins of what an edit made from its next round on.
        let (mut quiet, mut limit) = (None, Instant::now() + PATIENCE);
        while Instant::now() < limit {
            let now = Held::by(pid)?.descriptors;
            if quiet != Some(now) {
                (quiet, limit) = (Some(now), Instant::now() + KEEPER);
            }
            thread::sleep(Duration::from_millis(50));
        }
        let take = || -> Result<Sample> {
            let pins = pins(self.guard.pin_dir())?.len();
            Sample::take(pid, pins, &self.guard.status()?)
        };
        // The kernel lets go of things a moment after they were dropped.
        let mut last: Option<Sample> = None;
        until_some("two samples in a row to be equal", PATIENCE, || {
            let sample = take().ok()?;
            let is_settled = last.as_ref().is_some_and(|last| last.is_like(&sample));
            last = Some(sample.clone());
            thread::sleep(Duration::from_millis(30));
            is_settled.then_some(sample)
        })
        .with_context(|| format!("{}: the last one was {last:?}", self.name))
    }

    /// What the daemon holds now, by the name of the scene.
    pub(super) fn objects(&self) -> Result<Objects> {
        let held = Held::by(self.guard.pid().context("no daemon")?)?;
        let named = |id| (id, self.name.to_owned());
        Ok(Objects {
            programs: held.programs.into_iter().map(named).collect(),
            maps: held.maps.into_keys().map(named).collect(),
            links: held.links,
        })
    }

    /// Takes the guard out and looks for what is left. Gives what was done and found.
    pub(super) fn end(mut self) -> Result<(Tally, Vec<String>)> {
        self.guard.done(&["detach"])?;
        let mut left: Vec<_> = pins(self.guard.pin_dir())
            .unwrap_or_default()
            .iter()
            .map(|pin| pin.display().to_string())
            .collect();
        if self.guard.pin_dir().exists() {
            left.push(self.guard.pin_dir().display().to_string());
        }
        if let Some(program) = xdp_program_id(&self.bed.server.namespace, SERVER_DOOR)? {
            left.push(format!("program {program}"));
        }
        if !left.is_empty() {
            self.finding(format!("left behind by `detach`: {left:?}"));
        }
        let Tally { dropped, edits, interfaces, readers, kills, .. } = self.tally;
        let enough = [dropped, edits, interfaces, readers].iter().all(|count| *count > 0)
            && (kills > 0) == self.kills;
        ensure!(enough, "{}: hardly anything was done: {:?}", self.name, self.tally);
        Ok((self.tally, self.findings))
    }
}

/// The prefixes in what `list --json` prints that were added by command.
fn added(text: &str) -> Result<BTreeSet<String>> {
    let listed: Value = serde_json::from_str(text)?;
    let rules = listed["rules"].as_array().with_context(|| format!("no list: {text}"))?;
    rules
        .iter()
        .filter(|rule| rule["removable"] == true)
        .map(|rule| Ok(rule["prefix"].as_str().context("a rule without a prefix")?.to_owned()))
        .collect()
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.edits += other.edits;
        self.interfaces += other.interfaces;
        self.readers += other.readers;
        self.kills += other.kills;
        self.killed_at_an_edit += other.killed_at_an_edit;
        self.sent += other.sent;
        self.dropped += other.dropped;
        self.served += other.served;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { edits, interfaces, readers, kills, killed_at_an_edit, sent, dropped, served } =
            self;
        write!(
            f,
            "{edits} edits, {interfaces} steps of interfaces, {readers} steps of event readers, \
             {kills} ends of a daemon ({killed_at_an_edit} in an edit), {sent} frames of \
             strangers sent, {dropped} packets dropped, friend served {served} times"
        )
    }
}
