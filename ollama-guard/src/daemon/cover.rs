//! Covering the doors: what is to be covered, and the first time it is done.

mod told;

use std::collections::BTreeMap;

use ollama_guard_common::Start;

use super::{
    Chosen, StartError,
    inner::{self, InnerPlan},
};
use crate::{
    config::AttachChoice,
    dataplane::{
        Arrival, AttachMode, Dataplane, DataplaneError, Hook, INNER_NAME, LinkState,
        counters::INNER_DOOR, links::Target,
    },
    doors::{self, Door, Interface, Plan},
    status::SelectionSource as _,
};

pub(super) use told::{say, warn_before};

/// The interfaces, and what is to be done with each.
pub(super) struct CoverPlan {
    doors: Vec<Door>,
    /// Interfaces were asked for by name: each one that can't be covered is an error then.
    is_named: bool,
    /// Interfaces that the operator leaves out, by number.
    left_out: Vec<u32>,
    /// Interfaces that the operator does not name, or excludes, by number.
    unnamed: Vec<u32>,
    /// The attach mode asked for.
    attach: AttachChoice,
    /// The inner door.
    inner: InnerPlan,
}

/// Lists the interfaces and decides for each. Touches nothing. A name of none that is there is a slip, but
/// for those that are `known` from before: a tunnel, say, which is made later than we start.
pub(super) async fn plan(chosen: &Chosen, known: &[String]) -> Result<CoverPlan, StartError> {
    let interfaces = doors::list().await?;
    let names = chosen.names();
    let (late, missing): (Vec<_>, Vec<_>) =
        doors::unmatched(&names, &interfaces).into_iter().partition(|name| known.contains(name));
    for name in late {
        tracing::warn!("there is no interface {name} yet: it is guarded as soon as there is one");
    }
    if !missing.is_empty() {
        let present = interfaces.iter().map(|interface| interface.name.clone()).collect();
        return Err(StartError::UnknownInterface { missing, present });
    }
    let loopback = doors::loopback_named(&names, &interfaces);
    if !loopback.is_empty() {
        return Err(StartError::Loopback(loopback));
    }
    let plan = CoverPlan::of(chosen, &interfaces);
    if wanted(&plan).next().is_none() {
        tracing::warn!(
            "there is no interface to guard yet: waiting for one. If this is not meant, name one \
             with --interface or in `interfaces`; `ollama-guard status` says of each why not"
        );
    }
    Ok(plan)
}

impl CoverPlan {
    /// Decides for each interface.
    pub(super) fn of(chosen: &Chosen, interfaces: &[Interface]) -> Self {
        let doors = chosen.choose(interfaces);
        let is_named = chosen.is_named();
        let left_out = doors
            .iter()
            .filter(|door| matches!(door.plan, Plan::Skip(_)))
            // With the automatic choice, an interface that was covered stays covered, though it be
            // down at the moment: only the operator's word opens a door.
            .filter(|door| is_named || chosen.excludes(&door.interface.name))
            .map(|door| door.interface.ifindex)
            .collect();
        let unnamed = interfaces.iter().filter(|one| !chosen.names_or_takes(&one.name));
        let unnamed = unnamed.map(|interface| interface.ifindex).collect();
        let inner = InnerPlan::of(chosen.inner());
        Self { doors, is_named, left_out, unnamed, attach: chosen.attach(), inner }
    }

    /// The inner door.
    pub(super) const fn inner(&self) -> &InnerPlan {
        &self.inner
    }

    /// Whether the operator does not name an interface, or excludes it.
    pub(super) fn is_left_out_by_name(&self, ifindex: u32) -> bool {
        self.unnamed.contains(&ifindex)
    }

    /// Every interface, with what is to be done with it.
    pub(super) fn doors(&self) -> &[Door] {
        &self.doors
    }
}

/// Covers what is to be covered, and makes the loaded programs the pinned ones.
///
/// What can fail comes first: looking whether pinned links can be adopted, then making new ones.
/// If any of it fails, the new ones are taken back, the others get the program back that they ran,
/// and what was in force before is in force.
///
/// `observes` is whether the inner door drops nothing.
pub(super) fn cover(
    dataplane: &mut Dataplane,
    plan: &CoverPlan,
    observes: bool,
) -> Result<(), StartError> {
    let mut touched = Touched::default();
    let covered = attach_all(dataplane, plan, &mut touched)
        .and_then(|()| {
            touched.inner = inner::cover(dataplane, &plan.inner, observes)?;
            Ok(())
        })
        .and_then(|()| dataplane.commit().map_err(StartError::from));
    if covered.is_err() {
        let told = |result: Result<(), DataplaneError>| {
            if let Err(error) = result {
                tracing::error!(%error, "cannot take back what was done so far");
            }
        };
        for (hook, ifindex) in touched.made {
            told(dataplane.remove(hook, ifindex));
        }
        for (start, ifindex) in touched.adopted {
            told(dataplane.put_back(start, ifindex));
        }
        match touched.inner {
            Some(Arrival::Made) => told(dataplane.leave_inside().map(drop)),
            Some(Arrival::Adopted | Arrival::Moved) => told(dataplane.put_back_inside()),
            None => {}
        }
    }
    covered
}

/// What a start has done to links, should it fail after all.
#[derive(Default)]
struct Touched {
    made: Vec<(Hook, u32)>,
    adopted: Vec<(Start, u32)>,
    inner: Option<Arrival>,
}

/// Lets go of what the operator leaves out. The doors are covered and the policy is in force: what
/// cannot be cleared away stays guarded, which is said, and is no reason to end.
pub(super) fn settle(dataplane: &mut Dataplane, plan: &CoverPlan) {
    if let Err(error) = release(dataplane, plan) {
        tracing::error!(
            "cannot let go of interfaces that are gone or left out: {error}; they stay guarded, \
             and the next start tries again"
        );
    }
    inner::settle(dataplane, &plan.inner);
    for Door { interface, plan } in &plan.doors {
        if let Plan::Skip(skip) = plan
            && skip.is_loud()
        {
            tracing::warn!("{} is NOT COVERED: {skip}", interface.name);
        }
    }
    let others = plan.doors.iter().filter(|door| matches!(door.plan, Plan::Skip(_))).count();
    if others > 0 {
        tracing::info!("interfaces not guarded: {others}; `ollama-guard status` says why for each");
    }
}

/// The names of the doors, by index; the inner door's is [`INNER_DOOR`].
pub(super) fn names(plan: &CoverPlan) -> BTreeMap<u32, String> {
    let inner = plan.inner.is_wanted().then(|| (INNER_DOOR, INNER_NAME.to_owned()));
    wanted(plan).map(|wanted| (wanted.ifindex(), wanted.name().to_owned())).chain(inner).collect()
}

/// An interface to be guarded.
pub(super) struct Wanted<'a> {
    pub(super) start: Start,
    interface: &'a Interface,
    pub(super) target: Target<'a>,
    /// The attach mode asked for.
    attach: AttachChoice,
}

impl Wanted<'_> {
    /// Its number.
    pub(super) const fn ifindex(&self) -> u32 {
        self.interface.ifindex
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.interface.name
    }

    /// Whether the XDP slot is free.
    pub(super) const fn is_free(&self) -> bool {
        self.target.occupied.is_none()
    }

    /// Whether the kernel's lists show a link on it. They may be older than the last change between
    /// `variants`, the programs that it runs by turns.
    pub(super) fn shows(&self, link: &LinkState, variants: [u32; 2]) -> bool {
        if link.hook != Hook::Xdp {
            return link.listed;
        }
        let slots = self.interface.xdp;
        let shown = [slots.native, slots.generic, slots.offload];
        shown.into_iter().flatten().any(|id| id == link.program_id || variants.contains(&id))
    }
}

/// The interfaces to be guarded.
pub(super) fn wanted(plan: &CoverPlan) -> impl Iterator<Item = Wanted<'_>> {
    let attach = plan.attach;
    plan.doors.iter().filter_map(move |Door { interface, plan }| match plan {
        Plan::Guard { start, modes } => {
            let target = Target {
                interface: &interface.name,
                ifindex: interface.ifindex,
                modes,
                occupied: occupied(interface),
            };
            Some(Wanted { start: *start, interface, target, attach })
        }
        Plan::Skip(_) => None,
    })
}

fn attach_all(
    dataplane: &mut Dataplane,
    plan: &CoverPlan,
    touched: &mut Touched,
) -> Result<(), StartError> {
    let mut failures = Vec::new();
    let mut refuse = |wanted: &Wanted<'_>, error: DataplaneError| {
        if plan.is_named || !is_the_doors_own(&error) {
            return Err(error);
        }
        tracing::error!("{} is NOT COVERED: {error}", wanted.interface.name);
        failures.push(error.to_string());
        Ok(())
    };
    let (mut adopted, mut fresh) = (Vec::new(), Vec::new());
    for wanted in wanted(plan) {
        match dataplane.can_adopt(&wanted.target) {
            Ok(true) => adopted.push(wanted),
            Ok(false) => fresh.push(wanted),
            Err(error) => refuse(&wanted, error)?,
        }
    }
    for wanted in fresh {
        match dataplane.attach(wanted.start, &wanted.target) {
            Ok(outcome) => {
                say(&wanted, &outcome);
                if outcome.kept {
                    adopted.push(wanted);
                } else {
                    touched.made.push((outcome.hook, wanted.target.ifindex));
                }
            }
            Err(error) => refuse(&wanted, error)?,
        }
    }
    if touched.made.is_empty() && adopted.is_empty() && !failures.is_empty() {
        return Err(StartError::NothingCovered(failures));
    }
    for Wanted { start, interface, target, .. } in adopted {
        touched.adopted.push((start, target.ifindex));
        let how = match dataplane.adopt(start, target.ifindex)? {
            Hook::Xdp => {
                let mode = target.occupied.map_or("its", |(mode, _)| mode.name());
                format!("in {mode} mode")
            }
            hook => format!("by {hook}"),
        };
        tracing::info!("guarding {} {how}: adopted, without a gap", interface.name);
    }
    Ok(())
}

/// Removes links of interfaces that are gone or that the operator leaves out, and those at TC of
/// interfaces that are guarded at XDP now.
fn release(dataplane: &mut Dataplane, plan: &CoverPlan) -> Result<(), StartError> {
    let links = dataplane.links()?;
    for link in &links {
        let is_better = |other: &LinkState| {
            other.alive && other.ifindex == link.ifindex && other.hook < link.hook
        };
        if plan.left_out.contains(&link.ifindex) {
            tracing::warn!("removing the link of interface {}: it is left out now", link.ifindex);
            dataplane.release(link.ifindex)?;
        } else if !link.alive {
            tracing::warn!("removing the link of interface {}: it is gone", link.ifindex);
            dataplane.remove(link.hook, link.ifindex)?;
        } else if let Some(better) = links.iter().find(|other| is_better(other)) {
            let (hook, better) = (link.hook, better.hook);
            tracing::info!("interface {} is guarded by {better}: {hook} goes", link.ifindex);
            dataplane.remove(hook, link.ifindex)?;
        }
    }
    let present: Vec<u32> = plan.doors.iter().map(|door| door.interface.ifindex).collect();
    dataplane.forget_departed(&present)?;
    Ok(())
}

/// Whether an error is about one interface, so that the others can still be covered.
const fn is_the_doors_own(error: &DataplaneError) -> bool {
    matches!(error, DataplaneError::NoHook { .. } | DataplaneError::OtherMode { .. })
}

fn occupied(interface: &Interface) -> Option<(AttachMode, u32)> {
    let native = interface.xdp.native.or(interface.xdp.offload);
    native
        .map(|id| (AttachMode::Native, id))
        .or(interface.xdp.generic.map(|id| (AttachMode::Generic, id)))
}
