//! One round of the keeper, on the guard's thread: what there is against what there should be.
//!
//! Everything is decided from the kernel's state, never from what an earlier round believes; what
//! is remembered only says when to try again what the kernel has refused, and what was logged.
//!
//! A filter is only ever taken away from an interface that is gone. Whatever is unclear stays as
//! it is, is told, and is looked at again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    cover::{self, CoverPlan, Wanted},
    inner,
};
use crate::{
    dataplane::{Dataplane, Hook, LinkState},
    doors::{Door, Plan},
    guard::Guard,
};

/// What the kernel has refused is tried again after a second, then after two, and so on: an
/// attempt at native mode may reset the card.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often the whole policy is read back at most, and which share of the time that may take.
const POLICY_PAUSE: Duration = Duration::from_millis(1_900);
const POLICY_SHARE: u32 = 10;

/// The memory between two rounds.
#[derive(Debug, Default)]
pub(super) struct Tender {
    /// Interfaces that could not be covered, by number.
    refused: BTreeMap<u32, Refusal>,
    /// Links that netlink does not show on their interface, by interface: an interface that went
    /// elsewhere, or a list that is older than the link.
    suspects: BTreeMap<u32, u32>,
    /// Interfaces that are guarded at TC, for somebody else's program is in their XDP slot.
    behind: BTreeSet<u32>,
    /// What was said last of each interface.
    said: BTreeMap<u32, Said>,
    /// Whether what there was at the start has been noted.
    is_begun: bool,
    /// When to read the policy back again.
    next_policy: Option<Instant>,
}

#[derive(Debug)]
struct Refusal {
    text: String,
    pause: Duration,
    next: Instant,
}

#[derive(Debug, PartialEq, Eq)]
struct Said {
    name: String,
    plan: String,
}

/// What came of a round.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// What was not as it should be, and is again.
    pub(super) repairs: Vec<String>,
    /// What is not as it should be.
    pub(super) troubles: Vec<String>,
    /// Whether something has to be seen twice before it is believed.
    pub(super) is_unsure: bool,
}

impl Round {
    pub(super) fn trouble(text: String) -> Self {
        Self { troubles: vec![text], ..Self::default() }
    }

    pub(super) fn note<T>(&mut self, result: Result<T, impl std::fmt::Display>) -> Option<T> {
        result.map_err(|error| self.troubles.push(error.to_string())).ok()
    }
}

impl Tender {
    /// Brings everything to what it should be, as far as that is safe. `is_new` is whether the operator
    /// has just chosen anew: then what is left out is let go of, as at a start. `observes` is whether the inner
    /// door drops nothing.
    pub(super) fn tend(
        &mut self,
        guard: &mut Guard<Dataplane>,
        plan: &CoverPlan,
        is_new: bool,
        observes: bool,
    ) -> Round {
        let mut round = Round::default();
        // First, so that the policy in force knows nothing any more of interfaces whose numbers are given
        // back, and what is to be known of those that are attached.
        round.note(guard.know_doors(cover::names(plan)));
        let dataplane = guard.sink_mut();
        if let Some(mended) = round.note(dataplane.mend_pins()) {
            round.repairs.extend(mended);
        }
        self.follow(plan);
        if let Some(links) = round.note(dataplane.links()) {
            self.clear_away(dataplane, plan, &links, &mut round);
            if is_new {
                let_go(dataplane, plan, &links, &mut round);
            }
            for wanted in cover::wanted(plan) {
                let link = links.iter().find(|link| link.ifindex == wanted.ifindex() && link.alive);
                self.see_to(dataplane, &wanted, link, &mut round);
            }
        }
        inner::tend(dataplane, plan.inner(), observes, is_new, &mut round);
        let present: Vec<u32> = plan.doors().iter().map(|door| door.interface.ifindex).collect();
        round.note(dataplane.forget_departed(&present));
        self.refused.retain(|ifindex, _| present.contains(ifindex));
        self.suspects.retain(|ifindex, _| present.contains(ifindex));
        self.behind.retain(|ifindex| present.contains(ifindex));
        self.see_to_the_policy(guard, &mut round);
        round
    }

    /// Says what has changed about the interfaces.
    fn follow(&mut self, plan: &CoverPlan) {
        let mut said = BTreeMap::new();
        for Door { interface, plan } in plan.doors() {
            let plan_text = match plan {
                Plan::Guard { .. } => "to be guarded".to_owned(),
                Plan::Skip(skip) => skip.to_string(),
            };
            let now = Said { name: interface.name.clone(), plan: plan_text };
            let before = self.said.remove(&interface.ifindex);
            if self.is_begun && before.as_ref() != Some(&now) {
                let Said { name, plan: text } = &now;
                let head = match &before {
                    None => format!("interface {name} ({}) has appeared", interface.ifindex),
                    Some(before) if before.name != *name => {
                        format!("interface {} is called {name} now", before.name)
                    }
                    Some(_) => format!("interface {name} has changed"),
                };
                match plan {
                    Plan::Skip(skip) if skip.is_loud() => {
                        tracing::warn!("{head}, and is NOT COVERED: {text}");
                    }
                    _ => tracing::info!("{head}: {text}"),
                }
            }
            said.insert(interface.ifindex, now);
        }
        for (ifindex, Said { name, .. }) in &self.said {
            tracing::info!("interface {name} ({ifindex}) is gone");
        }
        self.said = said;
        self.is_begun = true;
    }

    /// Removes what is left of links whose interface is gone. A link that lives though its
    /// interface is not here any more filters in the namespace that it went to, and stays.
    fn clear_away(
        &mut self,
        dataplane: &mut Dataplane,
        plan: &CoverPlan,
        links: &[LinkState],
        round: &mut Round,
    ) {
        for link in links.iter().filter(|link| !link.alive) {
            round.note(dataplane.remove(link.hook, link.ifindex));
            let door = plan.doors().iter().find(|door| door.interface.ifindex == link.ifindex);
            match door {
                // Somebody detached it (`bpftool link detach`), and the interface is still here.
                Some(door) => round.repairs.push(format!(
                    "the link of {} had been severed: packets passed unjudged until now",
                    door.interface.name
                )),
                None => tracing::info!("removed the link of interface {}", link.ifindex),
            }
        }
    }

    /// Sees to it that one interface is covered.
    fn see_to(
        &mut self,
        dataplane: &mut Dataplane,
        wanted: &Wanted<'_>,
        link: Option<&LinkState>,
        round: &mut Round,
    ) {
        let ifindex = wanted.ifindex();
        let Some(link) = link else {
            self.suspects.remove(&ifindex);
            self.attach(dataplane, wanted, round);
            return;
        };
        let expected = dataplane.program_id(link.hook, wanted.start);
        let variants = dataplane.variant_ids(link.hook, wanted.start);
        let (Some(expected), Some(variants)) = (round.note(expected), round.note(variants)) else {
            return;
        };
        if link.program_id != expected {
            self.suspects.remove(&ifindex);
            let name = wanted.name();
            if round.note(dataplane.adopt(wanted.start, ifindex)).is_some() {
                round.repairs.push(format!(
                    "the link of {name} ran program {}, which is not the one that belongs there: \
                     put program {expected} back",
                    link.program_id
                ));
            }
        } else if wanted.shows(link, variants) {
            self.suspects.remove(&ifindex);
            self.see_to_the_hook(dataplane, wanted, link, round);
        } else if self.suspects.insert(ifindex, link.link_id) == Some(link.link_id) {
            // Seen twice: the link is that of an interface which had this number and has gone to
            // another namespace. Its number is another interface's now.
            self.suspects.remove(&ifindex);
            if round.note(dataplane.release(ifindex)).is_some() {
                round.repairs.push(format!(
                    "interface {ifindex} has gone to another namespace, and {} has its number now",
                    wanted.name()
                ));
                self.attach(dataplane, wanted, round);
            }
        } else {
            round.is_unsure = true;
        }
    }

    /// Sees to it that a door at TC goes to XDP when the slot there becomes free, and says who has
    /// got in front of it.
    fn see_to_the_hook(
        &mut self,
        dataplane: &mut Dataplane,
        wanted: &Wanted<'_>,
        link: &LinkState,
        round: &mut Round,
    ) {
        let (ifindex, name, hook) = (wanted.ifindex(), wanted.name(), link.hook);
        if hook == Hook::Xdp {
            self.behind.remove(&ifindex);
            return;
        }
        if let Some(ahead) = link.ahead {
            round.troubles.push(format!(
                "{name}: program {ahead} has got in front of ours at {hook}: restart the daemon, \
                 which goes to the front again"
            ));
        }
        if !wanted.is_free() {
            self.behind.insert(ifindex);
        } else if self.behind.remove(&ifindex) {
            // Once: a device that refuses XDP is not asked again and again, for an attempt at
            // native mode may reset the card. The old link goes when the new one is there.
            let Some(outcome) = round.note(dataplane.attach(wanted.start, &wanted.target)) else {
                return;
            };
            if outcome.hook == Hook::Xdp && round.note(dataplane.remove(hook, ifindex)).is_some() {
                cover::say(wanted, &outcome);
                tracing::info!("the XDP slot of {name} is free: its link at {hook} has gone");
            }
        }
    }

    /// Attaches, unless that was refused a moment ago.
    fn attach(&mut self, dataplane: &mut Dataplane, wanted: &Wanted<'_>, round: &mut Round) {
        let ifindex = wanted.ifindex();
        let now = Instant::now();
        if let Some(refusal) = self.refused.get(&ifindex).filter(|refusal| now < refusal.next) {
            round.troubles.push(refusal.text.clone());
            return;
        }
        if !self.refused.contains_key(&ifindex) {
            cover::warn_before(wanted);
        }
        match dataplane.attach(wanted.start, &wanted.target) {
            Ok(outcome) => {
                self.refused.remove(&ifindex);
                cover::say(wanted, &outcome);
            }
            // It went while we looked: the kernel tells, and the next round knows.
            Err(error) if error.is_gone() => {}
            Err(error) => {
                let text = format!("{} is NOT COVERED: {error}", wanted.name());
                round.troubles.push(text.clone());
                let refusal = self.refused.entry(ifindex);
                let refusal = refusal.and_modify(|r| r.pause = (r.pause * 2).min(LONGEST_PAUSE));
                let refusal = refusal.or_insert_with(|| Refusal {
                    text: String::new(),
                    pause: FIRST_PAUSE,
                    next: now,
                });
                refusal.text = text;
                refusal.next = now + refusal.pause;
            }
        }
    }

    /// Reads the policy back now and then: the more rules, the less often.
    fn see_to_the_policy(&mut self, guard: &mut Guard<Dataplane>, round: &mut Round) {
        let begun = Instant::now();
        if self.next_policy.is_some_and(|next| begun < next) {
            return;
        }
        if let Some(Some(mended)) = round.note(guard.mend_policy()) {
            round.repairs.push(mended);
        }
        let pause = POLICY_PAUSE.max(begun.elapsed() * POLICY_SHARE);
        self.next_policy = Some(Instant::now() + pause);
    }
}

/// Lets go of the interfaces that the operator does not name any more, or excludes now.
fn let_go(dataplane: &mut Dataplane, plan: &CoverPlan, links: &[LinkState], round: &mut Round) {
    for link in links.iter().filter(|link| plan.is_left_out_by_name(link.ifindex)) {
        if round.note(dataplane.release(link.ifindex)).is_some() {
            tracing::warn!(
                "interface {} is not guarded any more: it is left out now",
                link.ifindex
            );
        }
    }
}
