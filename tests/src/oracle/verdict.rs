//! What differs from what is to be.
//!
//! The rules, for each case and each guarded server:
//!
//! * Nothing comes from a guarded port to an address that is not allowed, and no listener on one
//!   gets to know such an address. Whatever was predicted.
//! * Every frame whose predicted reason passes arrives behind the guard exactly as often as where
//!   there is none, and no other does; the guard's twin gives the predicted reason for each, and
//!   the counters of the live program add up to the same, but for frames that a tunnel itself has
//!   refused.
//! * If all frames of a case were to pass, the answers are those of the server without a guard.
//! * If some were to be dropped as not allowed, that server has answered from a guarded port, or
//!   with an ICMP error, or not at all: anything else was traffic to another port.
//! * If some were to be dropped as undecidable, or always: nothing more is asked of the answers
//!   than that there are none of its own. The share of such cases is reported.
//! * A mutation that nobody planned has no predicted reason; the twin's takes its place in the
//!   last three rules.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ollama_guard_common::{Policy as _, Protocol, Reason, Standing, Verdict};

use super::{
    answer::Answer,
    case::{Case, Frame},
    cast::standing,
    lab::{Seen, identity},
    trial::{Outcome, by_receiver, guests},
};
use crate::policy::HostPolicy;

/// Something that is not as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The case; `None` if it is not known which.
    pub case: Option<Case>,
    /// The guarded server.
    pub server: &'static str,
    /// What.
    pub what: String,
    /// Whether somebody got what he is not to get. Then once is enough; anything else has to
    /// happen again before it is believed.
    pub is_hole: bool,
}

/// All that is known of a batch at one guarded server.
pub(super) struct Witness<'a> {
    /// The number of its policy.
    pub number: usize,
    /// Its name.
    pub server: &'static str,
    /// Its policy.
    pub policy: &'a HostPolicy,
    /// The batch.
    pub cases: &'a [Case],
    /// Whether it gets a frame.
    pub has: &'a dyn Fn(&Frame) -> bool,
    /// What the twin said of each frame.
    pub twin: Vec<Option<Reason>>,
    /// What the live program counted.
    pub counted: BTreeMap<String, u64>,
    /// Reasons to be counted beside those of the frames.
    pub carried_on: &'a [Reason],
    /// The server without a guard.
    pub bare: &'a Seen,
    /// This one.
    pub guarded: &'a Seen,
}

impl Witness<'_> {
    /// Compares, and adds to what became of the batch.
    pub fn examine(&self, outcome: &mut Outcome) {
        let mut position = 0;
        let reasons: Vec<Vec<Option<Reason>>> = self
            .cases
            .iter()
            .map(|case| {
                let begin = position;
                position += case.frames.len();
                let twin = &self.twin[begin..position];
                case.frames
                    .iter()
                    .zip(twin)
                    .map(|(frame, twin)| self.reason(frame, *twin))
                    .collect()
            })
            .collect();
        self.holes(outcome);
        self.twins(outcome);
        self.arrivals(&reasons, outcome);
        self.counters(&reasons, outcome);
        self.answers(&reasons, outcome);
    }

    /// The reason that a frame is to have here; `None` if it is not sent here.
    fn reason(&self, frame: &Frame, twin: Option<Reason>) -> Option<Reason> {
        if !(self.has)(frame) {
            return None;
        }
        frame.expect.map_or(twin, |expect| Some(expect[self.number]))
    }

    fn tell(&self, case: Option<&Case>, what: String, outcome: &mut Outcome) {
        let finding = Finding { case: case.cloned(), server: self.server, what, is_hole: false };
        outcome.findings.push(finding);
    }

    fn holes(&self, outcome: &mut Outcome) {
        let case = |address: IpAddr| {
            self.cases.iter().find(|case| case.sources.contains(&address)).cloned()
        };
        let mut hole = |address: IpAddr, what: String| {
            let (case, server) = (case(address), self.server);
            outcome.findings.push(Finding { case, server, what, is_hole: true });
        };
        for heard in &self.guarded.heard {
            if self.is_from_guarded(heard.from) && standing(heard.to) != Standing::Allowed {
                hole(heard.to, format!("an answer to {}: {:?}", heard.to, heard.answer));
            }
        }
        for guest in guests(self.guarded, self.policy) {
            if standing(guest.peer) != Standing::Allowed {
                hole(guest.peer, format!("a listener got to know {}", guest.peer));
            }
        }
    }

    fn is_from_guarded(&self, from: Option<(u8, IpAddr, u16)>) -> bool {
        from.is_some_and(|(protocol, _, port)| {
            Protocol::from_number(protocol)
                .is_some_and(|protocol| self.policy.is_guarded(protocol, port))
        })
    }

    fn twins(&self, outcome: &mut Outcome) {
        let frames = self.cases.iter().flat_map(|case| case.frames.iter().map(move |f| (case, f)));
        for ((case, frame), twin) in frames.zip(&self.twin) {
            if let (Some(twin), Some(expect)) = (twin, frame.expect)
                && *twin != expect[self.number]
            {
                let expected = expect[self.number].name();
                let what = format!("the reason {} instead of {expected}", twin.name());
                self.tell(Some(case), what, outcome);
            }
        }
    }

    fn arrivals(&self, reasons: &[Vec<Option<Reason>>], outcome: &mut Outcome) {
        for (case, reasons) in self.cases.iter().zip(reasons) {
            for (frame, reason) in case.frames.iter().zip(reasons) {
                let Some(reason) = reason else { continue };
                let known = identity(frame.door, &frame.shown());
                let count = |seen: &Seen| seen.arrived.get(&known).copied().unwrap_or(0);
                let (bare, guarded) = (count(self.bare), count(self.guarded));
                let expected = if reason.verdict() == Verdict::Pass { bare } else { 0 };
                if guarded != expected {
                    let what = format!(
                        "a frame for the reason {} arrived {guarded} times instead of {expected}",
                        reason.name()
                    );
                    self.tell(Some(case), what, outcome);
                }
            }
        }
    }

    fn counters(&self, reasons: &[Vec<Option<Reason>>], outcome: &mut Outcome) {
        let mut least: BTreeMap<Reason, u64> = BTreeMap::new();
        let mut unsure: BTreeMap<Reason, u64> = BTreeMap::new();
        for (case, reasons) in self.cases.iter().zip(reasons) {
            for (frame, reason) in case.frames.iter().zip(reasons) {
                let Some(reason) = reason else { continue };
                // What a tunnel itself refuses, such as half an IP header, does not get to a guard.
                let got_through = frame.door.is_cable()
                    || self.bare.arrived.contains_key(&identity(frame.door, &frame.shown()));
                *(if got_through { &mut least } else { &mut unsure })
                    .entry(*reason)
                    .or_default() += 1;
            }
        }
        for reason in self.carried_on {
            *least.entry(*reason).or_default() += 1;
        }
        for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::NotGuarded) {
            let of = |counts: &BTreeMap<Reason, u64>| counts.get(reason).copied().unwrap_or(0);
            let counted = self.counted.get(reason.name()).copied().unwrap_or(0);
            let (least, most) = (of(&least), of(&least) + of(&unsure));
            if !(least..=most).contains(&counted) {
                let name = reason.name();
                let what = format!("counted {counted} times {name} instead of {least} to {most}");
                self.tell(None, what, outcome);
            }
        }
    }

    fn answers(&self, reasons: &[Vec<Option<Reason>>], outcome: &mut Outcome) {
        let (bare, guarded) = (by_receiver(&self.bare.heard), by_receiver(&self.guarded.heard));
        let of = |answers: &HashMap<IpAddr, Vec<Answer>>, case: &Case| -> Vec<Answer> {
            case.sources
                .iter()
                .filter_map(|source| answers.get(source))
                .flatten()
                .cloned()
                .collect()
        };
        for (case, reasons) in self.cases.iter().zip(reasons) {
            // A case with a frame that is not sent here is one of another device.
            let Some(reasons) = reasons.iter().copied().collect::<Option<Vec<_>>>() else {
                continue;
            };
            let (bare, guarded) = (of(&bare, case), of(&guarded, case));
            if let Some(what) = self.differ(&reasons, &bare, &guarded) {
                self.tell(Some(case), what, outcome);
            }
            outcome.served += guarded.iter().filter(|a| a.text.contains(": served")).count();
            self.tally(case, &reasons, &bare, outcome);
        }
    }

    fn differ(&self, reasons: &[Reason], bare: &[Answer], guarded: &[Answer]) -> Option<String> {
        let dropped: Vec<_> = reasons.iter().filter(|r| r.verdict() == Verdict::Drop).collect();
        if dropped.is_empty() {
            let what = || format!("answered {} instead of {}", told(guarded), told(bare));
            return (bare != guarded).then(what);
        }
        if let Some(own) = guarded.iter().find(|answer| !bare.contains(answer)) {
            return Some(format!(
                "an answer that the server without a guard does not give: {own:?}"
            ));
        }
        if dropped.iter().all(|reason| is_decision(**reason)) {
            let elsewhere =
                |answer: &&Answer| !answer.is_error && !self.is_from_guarded(answer.from);
            let lost = bare.iter().filter(elsewhere).find(|answer| !guarded.contains(answer));
            return lost.map(|answer| format!("an answer from elsewhere was lost: {answer:?}"));
        }
        None
    }

    /// Each case is counted once, where all doors are.
    fn tally(&self, case: &Case, reasons: &[Reason], bare: &[Answer], outcome: &mut Outcome) {
        if self.server != "generic" {
            return;
        }
        outcome.answered += usize::from(!bare.is_empty());
        let is_knock = bare.iter().any(|answer| self.is_from_guarded(answer.from))
            && case.sources.iter().any(|source| standing(*source) != Standing::Allowed);
        outcome.knocks += usize::from(is_knock);
        let is_doubtful =
            |reason: &Reason| reason.verdict() == Verdict::Drop && !is_decision(*reason);
        outcome.doubtful += usize::from(reasons.iter().any(is_doubtful));
        outcome.wild += usize::from(!case.is_planned());
        for reason in reasons {
            *outcome.reasons.entry(reason.name()).or_default() += 1;
        }
    }
}

/// Whether the packet was read to the end, and the rules said no.
const fn is_decision(reason: Reason) -> bool {
    matches!(reason, Reason::NotListed | Reason::Denied)
}

fn told(answers: &[Answer]) -> String {
    let texts: Vec<_> = answers.iter().map(|answer| answer.text.as_str()).collect();
    if texts.is_empty() { "nothing".to_owned() } else { format!("[{}]", texts.join("; ")) }
}
