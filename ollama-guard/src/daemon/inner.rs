//! The inner door: where it is to stand, whether it drops, and seeing to it that it does.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ipnet::IpNet;
use ollama_guard_common::Reason;

use super::tender::Round;
use crate::{
    config::{HostMember, Inner, InnerNote},
    dataplane::{Arrival, Dataplane, DataplaneError, INNER_NAME, Place},
    doctor,
    doors::{Cgroup, HostGroups},
    events::{Event, Outcome},
    guard::Guard,
    policy::{Effect, Prefix},
    status::InnerChoice,
};

/// The built-in group of the networks of this host's containers.
const CONTAINERS: &str = "container-networks";

/// Where the inner door is to stand.
#[derive(Debug)]
pub(super) enum InnerPlan {
    /// There is to be none.
    Nowhere,
    At(Cgroup),
    /// At a cgroup that can't be had, and why.
    Unknown(String),
}

impl InnerPlan {
    /// Looks where that is.
    pub(super) fn of(inner: &Inner) -> Self {
        if !inner.is_wanted() {
            return Self::Nowhere;
        }
        match Cgroup::find(inner.cgroup.as_deref()) {
            Ok(cgroup) => Self::At(cgroup),
            Err(error) => Self::Unknown(error.to_string()),
        }
    }

    /// For `status`.
    pub(super) fn choice(self) -> InnerChoice {
        match self {
            Self::Nowhere => InnerChoice::Nowhere,
            Self::At(cgroup) => InnerChoice::At { path: cgroup.path().into(), id: cgroup.id() },
            Self::Unknown(why) => InnerChoice::Unknown(why),
        }
    }

    /// Whether there is to be one.
    pub(super) const fn is_wanted(&self) -> bool {
        !matches!(self, Self::Nowhere)
    }
}

fn place(cgroup: &Cgroup) -> Place<'_> {
    Place { path: cgroup.path(), directory: cgroup.as_fd(), id: cgroup.id() }
}

/// Whether the inner door drops: not after an upgrade from a guard that had none, until somebody has seen whom
/// that would shut out.
#[derive(Debug)]
pub(super) struct Confirmation {
    note: InnerNote,
    observes: AtomicBool,
    /// One at a time.
    writing: Mutex<()>,
}

impl Confirmation {
    /// What was written down, or else what follows from whether a guard ran here before.
    pub(super) fn open(note: InnerNote, ran_before: bool) -> Self {
        let noted = note.read().unwrap_or_else(|error| {
            // Closed rather than open: whoever upgrades has a note that can be read.
            tracing::error!("{error}; the inner door drops");
            Some(false)
        });
        let observes = noted.unwrap_or(ran_before);
        let confirmation =
            Self { note, observes: AtomicBool::new(observes), writing: Mutex::default() };
        if noted.is_none() {
            confirmation.keep(observes);
        }
        confirmation
    }

    /// Whether it only observes, with this said about it.
    pub(super) fn observes(&self, inner: &Inner) -> bool {
        if inner.is_confirmed() {
            self.confirm();
        }
        self.observes.load(Ordering::Relaxed)
    }

    /// It drops from now on. Answers whether that is new.
    pub(super) fn confirm(&self) -> bool {
        let is_new = self.observes.swap(false, Ordering::Relaxed);
        if is_new {
            self.keep(false);
        }
        is_new
    }

    fn keep(&self, observes: bool) {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.note.write(observes) {
            tracing::error!(
                "{error}: at the next start, it is decided anew whether the inner door drops"
            );
        }
    }
}

/// Has the inner door stand where it is to, for the first time. That it can't is no reason to fail: the doors at
/// the interfaces stand without it.
pub(super) fn cover(
    dataplane: &mut Dataplane,
    plan: &InnerPlan,
    observes: bool,
) -> Result<Option<Arrival>, DataplaneError> {
    let cgroup = match plan {
        InnerPlan::Nowhere => return Ok(None),
        InnerPlan::Unknown(why) => {
            tracing::error!("the {INNER_NAME} is NOT COVERED: {why}");
            return Ok(None);
        }
        InnerPlan::At(cgroup) => cgroup,
    };
    dataplane.observe_inside(observes)?;
    match dataplane.stand_inside(&place(cgroup)) {
        Ok(arrival) => {
            say(cgroup, arrival, observes);
            Ok(Some(arrival))
        }
        Err(error) => {
            tracing::error!("the {INNER_NAME} is NOT COVERED: {error}");
            Ok(None)
        }
    }
}

fn say(cgroup: &Cgroup, arrival: Arrival, observes: bool) {
    let how = match arrival {
        Arrival::Made => "",
        Arrival::Adopted => ": adopted, without a gap",
        Arrival::Moved => ": moved there",
    };
    let path = cgroup.path().display();
    if cgroup.is_root() {
        tracing::info!("guarding every socket of this machine from within, at {path}{how}");
    } else {
        tracing::info!("guarding the sockets of the processes in {path} from within{how}");
    }
    if observes {
        tracing::warn!(
            "the {INNER_NAME} only observes, for the guard that ran here before had none: look at \
             `ollama-guard events` whom it would shut out, then `ollama-guard confirm --inner`"
        );
    }
}

/// Says at the start which containers of this host it shuts out.
pub(super) async fn warn_of_containers(guard: &Guard<Dataplane>, plan: &InnerPlan) {
    if !plan.is_wanted() {
        return;
    }
    // Not to be known is no reason to say anything.
    let Ok(groups) = HostGroups::read().await else { return };
    let networks = groups.members(CONTAINERS).unwrap_or_default();
    let allowed = guard.all().filter(|rule| rule.effect == Effect::Allow);
    let allowed: Vec<Prefix> = allowed.map(|rule| rule.prefix).collect();
    let is_let_in = |net: IpNet| allowed.iter().any(|prefix| prefix.contains(net.addr()));
    let shut = doctor::shut_out(networks, is_let_in);
    if let Some(finding) = doctor::shut_out_containers(&shut, "the guarded ports") {
        tracing::warn!("{finding}");
    }
}

/// Says once, when it happens, that a container of this host was shut out.
#[derive(Debug, Default)]
pub(super) struct Hint {
    is_given: Arc<AtomicBool>,
    /// Addresses that were looked up already: few, for each costs a look at the interfaces.
    known: BTreeSet<IpAddr>,
}

impl Hint {
    const MOST: usize = 64;

    /// Takes note of an event. Needs a tokio runtime.
    pub(super) fn see(&mut self, event: &Event) {
        let Some(source) = event.source.filter(|_| event.hook.is_some()) else { return };
        let is_strange = event.reason == Reason::NotListed.name();
        if !is_strange || self.is_given.load(Ordering::Relaxed) || self.known.len() == Self::MOST {
            return;
        }
        if self.known.insert(source) {
            tokio::spawn(give_hint(Arc::clone(&self.is_given), source, event.verdict));
        }
    }
}

async fn give_hint(is_given: Arc<AtomicBool>, source: IpAddr, verdict: Outcome) {
    let Ok(groups) = HostGroups::read().await else { return };
    let networks = groups.members(CONTAINERS).unwrap_or_default();
    let Some(HostMember { net, interface, .. }) =
        networks.iter().find(|member| member.net.contains(&source))
    else {
        return;
    };
    if is_given.swap(true, Ordering::Relaxed) {
        return;
    }
    let word = match verdict {
        Outcome::Drop => "was",
        Outcome::WouldDrop => "would have been",
    };
    tracing::warn!(
        "the container {source} on {interface} knocked at a guarded port and {word} kept out by the \
         {INNER_NAME}: if containers are to use it, `ollama-guard allow add {net} --comment containers`"
    );
}

/// Takes the inner door away if there is to be none.
pub(super) fn settle(dataplane: &mut Dataplane, plan: &InnerPlan) {
    if plan.is_wanted() {
        return;
    }
    match dataplane.leave_inside() {
        Ok(true) => tracing::warn!("the {INNER_NAME} is gone: the configuration says so"),
        Ok(false) => {}
        Err(error) => {
            tracing::error!("the {INNER_NAME} stays: {error}; the next start tries again")
        }
    }
}

/// One round of the keeper. `is_new` is whether the operator has just chosen anew.
pub(super) fn tend(
    dataplane: &mut Dataplane,
    plan: &InnerPlan,
    observes: bool,
    is_new: bool,
    round: &mut Round,
) {
    let cgroup = match plan {
        InnerPlan::Nowhere if is_new => return settle(dataplane, plan),
        InnerPlan::Nowhere => return,
        InnerPlan::Unknown(why) => {
            return round.troubles.push(format!("the {INNER_NAME} is NOT COVERED: {why}"));
        }
        InnerPlan::At(cgroup) => cgroup,
    };
    let is_set = dataplane.observe_inside(observes);
    if round.note(is_set) == Some(true) && !is_new {
        let word = if observes { "drop" } else { "only observe" };
        round.repairs.push(format!("the {INNER_NAME} had been set to {word}: put right"));
    }
    let Some(before) = round.note(dataplane.inner()) else { return };
    let Some(expected) = round.note(dataplane.inner_program_id()) else { return };
    let wrong = match before {
        None => Some("was gone".to_owned()),
        Some(link) if !link.is_alive() => {
            Some("had been severed: packets passed unjudged until now".to_owned())
        }
        Some(link) if link.cgroup != cgroup.id() => Some("stood at another cgroup".to_owned()),
        Some(link) if link.program_id != expected => Some(format!(
            "ran program {}, which is not the one that belongs there",
            link.program_id
        )),
        Some(_) => return,
    };
    match dataplane.stand_inside(&place(cgroup)) {
        Ok(arrival) if is_new => say(cgroup, arrival, observes),
        Ok(_) => {
            round.repairs.extend(wrong.map(|wrong| format!("the link of the {INNER_NAME} {wrong}")))
        }
        Err(error) => round.troubles.push(format!("the {INNER_NAME} is NOT COVERED: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_an_upgrade_it_observes_until_somebody_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let open = |ran_before| Confirmation::open(InnerNote::new(directory.path()), ran_before);
        let default = Inner::default();
        assert!(open(true).observes(&default));
        assert!(open(false).observes(&default), "as it was written down");
        let confirmed = Inner { enable: Some(true), cgroup: None };
        assert!(!open(true).observes(&confirmed));
        assert!(!open(true).observes(&default), "once is enough");
    }

    #[test]
    fn where_no_guard_ran_before_it_drops_from_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let note = || InnerNote::new(directory.path());
        assert!(!Confirmation::open(note(), false).observes(&Inner::default()));
        assert!(!Confirmation::open(note(), true).observes(&Inner::default()));
    }
}
