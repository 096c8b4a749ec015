//! What is done while a call fails, and what may come of it.
//!
//! In every phase the outcome is one of two as a whole: what was asked for, or what was so before,
//! with a word about it. Anything else is a defect, and so is a frame of a stranger that gets past
//! a door that was guarded when the phase began.
//!
//! Long because what is done in a phase and what may come of it are one thing, and there are seven.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{End, Fault, Stage, Target, Traced, Who, stage::Passing, stored};
use crate::bed::{SERVER_DOOR, until};

const PATIENCE: Duration = Duration::from_secs(30);

/// A phase of the guard's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// The first start: nothing is loaded, everybody passes.
    Start,
    /// A new daemon, with another policy, over a live guard without one.
    Upgrade,
    /// The first edit of a daemon's life, which builds the rules of a slot.
    FirstEdit,
    /// `allow add`, into rules that are there.
    Add,
    /// `allow replace`, into rules that are there.
    Replace,
    /// `detach` through the daemon; the daemon's calls fail.
    Detach,
    /// `detach` without a daemon; the command's calls fail.
    DetachAlone,
}

/// What came of a case that is no defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Refused with a word; all is as it was.
    Refused,
    /// Done as asked for.
    Done,
    /// Refused with a word, and yet done in part: only `detach`, which is to be called again.
    Partly,
    /// Killed; what was so before is so.
    KilledBefore,
    /// Killed; what was asked for is so.
    KilledAfter,
    /// The process did not make the call this time.
    NotMade,
}

impl Outcome {
    /// Its letter in the table.
    #[must_use]
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Refused => "r",
            Self::Done => "d",
            Self::Partly => "p",
            Self::KilledBefore => "o",
            Self::KilledAfter => "n",
            Self::NotMade => "-",
        }
    }
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Start,
        Self::Upgrade,
        Self::FirstEdit,
        Self::Add,
        Self::Replace,
        Self::Detach,
        Self::DetachAlone,
    ];

    /// Its name in the table and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Upgrade => "upgrade",
            Self::FirstEdit => "first-edit",
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Detach => "detach",
            Self::DetachAlone => "detach-alone",
        }
    }

    /// The change that is asked for, and who passes once it is made.
    fn edit(self) -> (&'static str, Value, Passing) {
        let new = Who::New.texts();
        match self {
            Self::Replace => {
                let rules: Vec<_> = new.iter().map(|prefix| json!({ "prefix": prefix })).collect();
                let body = json!({ "effect": "allow", "rules": rules });
                ("/v1/rules/replace", body, Passing::from([Who::Friend, Who::New]))
            }
            _ => {
                let body = json!({ "effect": "allow", "prefixes": new });
                ("/v1/rules/add", body, Passing::from([Who::Friend, Who::Old, Who::New]))
            }
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Plays one phase again and again on one stage.
pub(super) struct Player<'s, 'bed> {
    stage: &'s mut Stage<'bed>,
    phase: Phase,
    /// The daemon that edits go to.
    daemon: Option<Traced>,
    /// What refusals said, by what was refused.
    pub(super) words: Vec<String>,
}

fn old_policy() -> Passing {
    Passing::from([Who::Friend, Who::Old])
}

fn new_policy() -> Passing {
    Passing::from([Who::Friend, Who::New])
}

impl<'s, 'bed> Player<'s, 'bed> {
    pub(super) fn new(stage: &'s mut Stage<'bed>, phase: Phase) -> Self {
        Self { stage, phase, daemon: None, words: Vec::new() }
    }

    /// The calls of the phase without a fault, by kind.
    pub(super) fn calls(&mut self) -> Result<BTreeMap<String, usize>> {
        self.prepare()?;
        let calls = match self.phase {
            Phase::Start | Phase::Upgrade => {
                let mut daemon = self.stage.traced_run(None)?;
                let end = self.stage.settled(&daemon)?;
                ensure!(end.is_none(), "the daemon ended: {}", self.stage.said());
                let calls = daemon.calls();
                daemon.kill();
                calls
            }
            Phase::FirstEdit | Phase::Add | Phase::Replace => {
                let daemon = self.daemon.take().context("a daemon")?;
                let (path, body, after) = self.phase.edit();
                daemon.disarm();
                self.asked(path, &body)?;
                let calls = daemon.calls();
                self.daemon = Some(daemon);
                ensure!(self.stage.passing()? == after, "the change is not in force");
                calls
            }
            Phase::Detach => {
                let daemon = self.daemon.take().context("a daemon")?;
                daemon.disarm();
                let detached = self.stage.detach()?;
                detached.expect_success()?;
                daemon.wait(PATIENCE)?;
                daemon.calls()
            }
            Phase::DetachAlone => {
                let command = self.stage.traced_command(&["detach"], None)?;
                ensure!(command.wait(PATIENCE)? == End::Exit(0), "{}", self.stage.said());
                command.calls()
            }
        };
        self.clear_away()?;
        Ok(calls)
    }

    /// One case. An error is a defect, or a bed that does not work.
    pub(super) fn play(&mut self, target: &Target, fault: Fault) -> Result<Outcome> {
        self.prepare().context("before the fault")?;
        let leaked = self.stage.leaked();
        let outcome = match self.phase {
            Phase::Start => self.start(target, fault),
            Phase::Upgrade => self.upgrade(target, fault),
            Phase::FirstEdit | Phase::Add | Phase::Replace => self.edit(target, fault),
            Phase::Detach => self.detach(target, fault),
            Phase::DetachAlone => self.detach_alone(target, fault),
        };
        let guarded = !matches!(self.phase, Phase::Start | Phase::Detach | Phase::DetachAlone);
        let leaked = self.stage.leaked() - leaked;
        if outcome.is_err() {
            // The next case begins from nothing.
            self.daemon = None;
            let _ = self.clear_away();
        }
        ensure!(!guarded || leaked == 0, "{leaked} frames of strangers got past ({outcome:?})");
        outcome
    }

    /// Brings the stage to where the phase begins.
    fn prepare(&mut self) -> Result<()> {
        match self.phase {
            Phase::Start => {
                self.stage.guard.write_config(&Stage::config(&[Who::Friend, Who::New]))?;
                let residue = self.stage.residue()?;
                ensure!(residue.is_empty(), "left behind: {residue:?}");
            }
            Phase::Upgrade | Phase::DetachAlone => {
                self.stage.guard.write_config(&Stage::config(&[Who::Friend, Who::Old]))?;
                let is_so = self.stage.guard.pin_dir().exists()
                    && self.stage.passing().is_ok_and(|passing| passing == old_policy());
                if !is_so {
                    self.clean_start()?;
                }
                self.stage.guard.write_config(&Stage::config(&[Who::Friend, Who::New]))?;
            }
            Phase::FirstEdit | Phase::Add | Phase::Replace | Phase::Detach => {
                self.stage.guard.write_config(&Stage::config(&[Who::Friend]))?;
                if self.phase == Phase::FirstEdit {
                    // To be the first edit, it needs another daemon.
                    self.daemon = None;
                }
                if self.daemon.as_ref().is_none_or(|daemon| daemon.end().is_some()) {
                    self.daemon = None;
                    let daemon = self.stage.traced_run(None)?;
                    let end = self.stage.settled(&daemon)?;
                    ensure!(end.is_none(), "a clean start failed: {}", self.stage.said());
                    self.daemon = Some(daemon);
                }
                if self.phase == Phase::FirstEdit {
                    if self.stage.passing()? != old_policy() {
                        self.base_rules()?;
                        self.daemon = None;
                        return self.prepare();
                    }
                } else {
                    // Twice, so that the rules of both slots are built.
                    self.base_rules()?;
                }
            }
        }
        Ok(())
    }

    /// Whoever edits begins with these rules in force.
    fn base_rules(&self) -> Result<()> {
        for rules in [&[][..], &Who::Old.texts()[..]] {
            let rules: Vec<_> = rules.iter().map(|prefix| json!({ "prefix": prefix })).collect();
            let body = json!({ "effect": "allow", "rules": rules });
            let (status, answer) = self.asked("/v1/rules/replace", &body)?;
            ensure!(status == 200, "a clean edit failed: {answer}");
        }
        Ok(())
    }

    /// A daemon without a fault takes over, says that all is well, and is killed. It needs no help
    /// to repair what a fault left.
    fn clean_start(&mut self) -> Result<()> {
        self.stage.guard.start().context("a clean start after the fault")?;
        let passing = self.stage.passing()?;
        let status = self.stage.guard.cli(&["status"])?;
        self.stage.guard.kill9()?;
        ensure!(status.code == Some(0), "after a clean start, status says: {status:?}");
        ensure!(!passing.contains(&Who::Stranger), "after a clean start, {passing:?} pass");
        Ok(())
    }

    /// Takes everything out, as the phases that begin with nothing need it.
    fn clear_away(&mut self) -> Result<()> {
        if self.phase == Phase::Upgrade {
            return Ok(());
        }
        if matches!(self.phase, Phase::Start | Phase::Detach | Phase::DetachAlone)
            || self.daemon.is_none()
        {
            self.daemon = None;
            let detached = self.stage.detach()?;
            detached.expect_success()?;
            self.stage.gone().context("after a clean `detach`")?;
        }
        Ok(())
    }

    fn start(&mut self, target: &Target, fault: Fault) -> Result<Outcome> {
        let everybody = self.stage.passing()?;
        let mut daemon = self.stage.traced_run(Some((target.clone(), fault)))?;
        let end = self.stage.settled(&daemon)?;
        let hit = daemon.was_hit();
        let passing = self.stage.passing()?;
        let outcome = match end {
            None if !hit => Ok(Outcome::NotMade),
            None => self.running(&passing, &new_policy()),
            Some(End::Exit(code)) => {
                self.refused(code)?;
                self.stage.gone().context("the start failed")?;
                let passing = self.stage.passing()?;
                ensure!(passing == everybody, "the start failed, and {passing:?} pass");
                Ok(Outcome::Refused)
            }
            Some(End::Signal(signal)) if fault == Fault::Kill => {
                ensure!(
                    passing == everybody || passing == new_policy(),
                    "killed by {signal}, and {passing:?} pass"
                );
                self.clean_start()?;
                ensure!(self.stage.guard.pin_dir().exists(), "a clean start pins nothing");
                let is_new = passing == new_policy();
                Ok(if is_new { Outcome::KilledAfter } else { Outcome::KilledBefore })
            }
            Some(End::Signal(signal)) => bail!("it died by {signal}: {}", self.stage.said()),
        };
        daemon.kill();
        let outcome = outcome?;
        self.clear_away()?;
        Ok(outcome)
    }

    fn upgrade(&mut self, target: &Target, fault: Fault) -> Result<Outcome> {
        let before = self.stage.guard.status()?;
        let pins = self.stage.residue()?;
        let mut daemon = self.stage.traced_run(Some((target.clone(), fault)))?;
        let end = self.stage.settled(&daemon)?;
        let hit = daemon.was_hit();
        let passing = self.stage.passing()?;
        let outcome = match end {
            None if !hit => Outcome::NotMade,
            None => self.running(&passing, &new_policy())?,
            Some(End::Exit(code)) => {
                self.refused(code)?;
                ensure!(passing == old_policy(), "the upgrade failed, and {passing:?} pass");
                let status = self.stage.guard.cli(&["status"])?;
                ensure!(status.code == Some(0), "after a failed upgrade, status says: {status:?}");
                let left = self.stage.residue()?;
                let programs =
                    |all: &[String]| all.iter().filter(|one| one.contains("-new")).count();
                ensure!(programs(&left) == 0, "the upgrade failed and left {left:?} of {pins:?}");
                Outcome::Refused
            }
            Some(End::Signal(signal)) => {
                ensure!(fault == Fault::Kill, "it died by {signal}: {}", self.stage.said());
                let is_new = passing == new_policy();
                ensure!(
                    is_new || passing == old_policy(),
                    "killed by {signal}, and {passing:?} pass"
                );
                if is_new { Outcome::KilledAfter } else { Outcome::KilledBefore }
            }
        };
        daemon.kill();
        // Repaired by a clean start, with the old policy: the next case begins with it.
        self.stage.guard.write_config(&Stage::config(&[Who::Friend, Who::Old]))?;
        self.clean_start()?;
        let passing = self.stage.passing()?;
        ensure!(passing == old_policy(), "after a clean start, {passing:?} pass");
        let link =
            |status: &crate::bed::Status| Ok::<_, anyhow::Error>(status.door(SERVER_DOOR)?.link);
        let (link_before, link_after) = (link(&before)?, link(&self.stage.guard.status()?)?);
        ensure!(link_before == link_after, "the link is {link_after:?} instead of {link_before:?}");
        Ok(outcome)
    }

    fn edit(&mut self, target: &Target, fault: Fault) -> Result<Outcome> {
        let daemon = self.daemon.take().context("a daemon")?;
        let (path, body, after) = self.phase.edit();
        let before = self.stage.passing()?;
        ensure!(before == old_policy(), "before the edit, {before:?} pass");
        daemon.arm(target, fault);
        let answer = self.asked(path, &body);
        let hit = daemon.was_hit();
        daemon.disarm();
        let passing = self.stage.passing()?;
        let outcome = match answer {
            Ok((200, _)) => {
                ensure!(passing == after, "the answer is `done`, and {passing:?} pass");
                self.agree(&after)?;
                if hit { Outcome::Done } else { Outcome::NotMade }
            }
            Ok((status, answer)) => {
                self.words.push(format!("{}: {answer}", target.call));
                ensure!(hit, "refused without a fault: {answer}");
                ensure!(
                    passing == before,
                    "the answer is a refusal ({status}: {answer}), and {passing:?} pass"
                );
                self.agree(&before)?;
                Outcome::Refused
            }
            Err(error) => {
                ensure!(fault == Fault::Kill, "no answer ({error:#}): {}", self.stage.said());
                daemon.wait(PATIENCE)?;
                ensure!(passing == before || passing == after, "killed, and {passing:?} pass");
                if passing == after { Outcome::KilledAfter } else { Outcome::KilledBefore }
            }
        };
        self.daemon = Some(daemon);
        Ok(outcome)
    }

    fn detach(&mut self, target: &Target, fault: Fault) -> Result<Outcome> {
        let daemon = self.daemon.take().context("a daemon")?;
        daemon.arm(target, fault);
        let detached = self.stage.detach()?;
        let hit = daemon.was_hit();
        daemon.disarm();
        let outcome = self.taken_out(&detached.code, &detached.stderr, hit, fault)?;
        // A second `detach` finishes, whether or not the daemon lives.
        let again = self.stage.detach()?;
        ensure!(again.succeeded(), "the second `detach` says: {again:?}");
        self.stage.gone().context("after the second `detach`")?;
        let daemon_ends = daemon.wait(PATIENCE);
        ensure!(daemon_ends.is_ok(), "the daemon goes on after `detach`: {}", self.stage.said());
        Ok(outcome)
    }

    fn detach_alone(&mut self, target: &Target, fault: Fault) -> Result<Outcome> {
        let command = self.stage.traced_command(&["detach"], Some((target.clone(), fault)))?;
        let end = command.wait(PATIENCE)?;
        let code = if let End::Exit(code) = end { Some(code) } else { None };
        let said = self.stage.said();
        let outcome = self.taken_out(&code, &said, command.was_hit(), fault)?;
        let again = self.stage.detach()?;
        ensure!(again.succeeded(), "the second `detach` says: {again:?}");
        self.stage.gone().context("after the second `detach`")?;
        Ok(outcome)
    }

    /// What a `detach` may have come to.
    fn taken_out(
        &mut self,
        code: &Option<i32>,
        said: &str,
        hit: bool,
        fault: Fault,
    ) -> Result<Outcome> {
        let passing = self.stage.passing()?;
        let is_open = passing.contains(&Who::Stranger);
        match code {
            Some(0) => {
                self.stage.gone().context("`detach` says that it is done")?;
                Ok(if hit { Outcome::Done } else { Outcome::NotMade })
            }
            Some(code) => {
                ensure!(*code == 2, "exit status {code}: {said}");
                ensure!(said.contains("ollama-guard: "), "no word about it: {said:?}");
                self.words.push(last_line(said));
                Ok(if is_open { Outcome::Partly } else { Outcome::Refused })
            }
            None => {
                ensure!(fault == Fault::Kill, "it died: {said}");
                Ok(if is_open { Outcome::KilledAfter } else { Outcome::KilledBefore })
            }
        }
    }

    /// A daemon that runs in spite of the fault has done all of it, and `status` says so.
    fn running(&self, passing: &Passing, wanted: &Passing) -> Result<Outcome> {
        ensure!(passing == wanted, "it runs, and {passing:?} pass: {}", self.stage.said());
        // The fault may have hit a round of the keeper, which says so until the next one.
        let is_well = || self.stage.guard.cli(&["status"]).is_ok_and(|status| status.succeeded());
        until("status to find nothing wrong with what runs", PATIENCE, is_well)
            .with_context(|| format!("{:?}", self.stage.guard.cli(&["status"])))?;
        let door = self.stage.guard.status()?.door(SERVER_DOOR)?;
        ensure!(door.is_covered, "it runs, and status says: {door:?}");
        Ok(Outcome::Done)
    }

    /// A start that failed has said why.
    fn refused(&mut self, code: i32) -> Result<()> {
        let said = self.stage.said();
        ensure!(code == 2, "exit status {code}: {said}");
        ensure!(said.contains("ollama-guard: ") && !said.contains("panicked"), "it said: {said}");
        self.words.push(last_line(&said));
        Ok(())
    }

    /// The daemon's list and its file say what is in force.
    fn agree(&self, passing: &Passing) -> Result<()> {
        let list = self.stage.guard.ask("GET", "/v1/rules", "")?;
        let file = stored::prefixes(&self.stage.guard.state_dir())?;
        for who in [Who::Old, Who::New] {
            for address in who.texts() {
                let is_in = |text: &str| text.contains(&format!("\"{address}"));
                let wanted = passing.contains(&who);
                ensure!(is_in(&list) == wanted, "{address}: in force {wanted}, but: {list}");
                let is_stored = file.iter().any(|prefix| prefix.starts_with(&*address));
                ensure!(is_stored == wanted, "{address}: in force {wanted}, but: {file:?}");
            }
        }
        Ok(())
    }

    /// Asks for a change: status and body.
    fn asked(&self, path: &str, body: &Value) -> Result<(u16, String)> {
        let answer = self.stage.guard.exchange("POST", path, &body.to_string(), PATIENCE)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default().trim().to_owned();
        Ok((status.with_context(|| format!("no answer: {answer:?}"))?, body))
    }
}

fn last_line(said: &str) -> String {
    let error = said.rsplit("ollama-guard: ").next().unwrap_or_default();
    error.lines().next().unwrap_or_default().to_owned()
}
