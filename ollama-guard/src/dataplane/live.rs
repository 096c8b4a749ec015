//! The kernel objects of a running daemon.
//!
//! Long because everything that a daemon does to the kernel goes through this one owner of it, a few
//! lines for each; the work is done in the files beside it.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use ollama_guard_common::{
    Start,
    abi::{maps as names, rule_blocks},
};

use super::{
    DataplaneError, PinDir, PinLock, Result,
    addresses::Addresses,
    allowance::Allowance,
    contents::{self, Found, InForce},
    counters,
    held::Held,
    learning,
    links::{self, Hook, LinkState, Outcome, Programs, Target},
    maps::{self, Maps},
    pins, probe,
    programs::{self, Entries},
    ring::{EventRing, KernelLog},
    rules,
    slots::{PolicySink, Slots, TrialEnd},
    sys, table,
};
use crate::policy::{Digests, MapImage};

/// How to open the dataplane.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions<'a> {
    /// Let the kernel side log what must never happen.
    pub debug: bool,
    /// Use the programs that are aware of multi-buffer frames where the kernel has them. Without,
    /// drivers at a jumbo MTU refuse native mode.
    pub multi_buffer: bool,
    /// Where a verifier log goes.
    pub log_directory: &'a Path,
    /// Prefixes that there is to be room for. Maps that have room for another number give way to new
    /// ones; what was counted is kept.
    pub capacity: u32,
}

/// Programs and maps, loaded or adopted, and the lock that makes this the only writer.
///
/// Opening loads a new program over the pinned maps, or over new maps if there are none that can be
/// trusted. [`Dataplane::adopt`] puts it into the pinned links, [`Dataplane::attach`] makes new ones;
/// other kinds of doors have their programs loaded then. [`Dataplane::commit`] loads the rest, makes
/// all of them the pinned ones and clears away what they replace.
pub struct Dataplane {
    pub(super) pins: PinDir,
    /// The directory with the pins of programs and maps: the current one if it was adopted, and
    /// until `commit` the one beside it if it is new.
    directory: PathBuf,
    adopted: bool,
    pub(super) maps: Maps,
    slots: Slots,
    pub(super) entries: Entries,
    addresses: Addresses,
    allowance: Option<Allowance>,
    kernel_logs: Vec<KernelLog>,
    is_committed: bool,
    pub(super) held: Held,
    // Last: the lock is let go of only after everything else is done.
    lock: PinLock,
}

/// The maps of an earlier daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Earlier {
    None,
    /// They have room for another number of prefixes.
    OtherCapacity,
    Fits,
}

impl Dataplane {
    /// Takes the lock and loads the programs. Needs a tokio runtime. Nothing is attached yet, and
    /// what was attached goes on.
    pub fn open(pins: PinDir, options: OpenOptions<'_>) -> Result<Self> {
        let mut features = probe::features()?;
        features.multi_buffer &= options.multi_buffer;
        let is_new = !pins.exists();
        Self::open_in(&pins, options, features).inspect_err(|_| {
            if is_new {
                pins.remove_empty();
            }
        })
    }

    fn open_in(pins: &PinDir, options: OpenOptions<'_>, features: probe::Features) -> Result<Self> {
        pins.create()?;
        let lock = pins.lock_for_daemon()?;
        let current = pins.current();
        let found = match maps::check(&current) {
            Ok(()) if rules::blocks(&current) == Some(rule_blocks(options.capacity)) => {
                Earlier::Fits
            }
            Ok(()) => Earlier::OtherCapacity,
            Err(error) => {
                if current.exists() {
                    tracing::warn!(%error, "the pinned maps can't be adopted; building new ones");
                }
                Earlier::None
            }
        };
        let adopted = found == Earlier::Fits;
        let directory = if adopted { current.clone() } else { pins.next() };
        let loading = programs::Loading {
            directory: &directory,
            features,
            debug: options.debug,
            log_directory: options.log_directory,
        };
        let loaded = match found {
            Earlier::Fits => Self::load(pins, &loading, lock, true),
            _ => make_anew(&current, &directory, found, options.capacity)
                .and_then(|()| Self::load(pins, &loading, lock, false)),
        };
        loaded.inspect_err(|_| drop(abandon(pins, &directory)))
    }

    fn load(
        pins: &PinDir,
        loading: &programs::Loading<'_>,
        lock: PinLock,
        adopted: bool,
    ) -> Result<Self> {
        let directory = loading.directory;
        let entries = Entries::open(loading)?;
        let maps = Maps::open(directory)?;
        // Of what another daemon left, the numbers of its policies go on.
        let newest = Maps::open(&pins.current()).map(|maps| maps.newest()).unwrap_or(0);
        Ok(Self {
            slots: Slots::new(newest, rules::filled(directory)),
            entries,
            pins: pins.clone(),
            directory: directory.to_owned(),
            adopted,
            maps,
            addresses: Addresses::default(),
            allowance: None,
            kernel_logs: Vec::new(),
            is_committed: false,
            held: Held::default(),
            lock,
        })
    }

    /// Whether the maps of an earlier daemon, with policy, counters and books, are in use.
    #[must_use]
    pub const fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// The generation of the policy in force; 0 before the first.
    pub fn generation(&self) -> Result<u64> {
        Ok(self.maps.generation())
    }

    /// Whether an interface has a pinned link that lives and is to go on. A link at TC goes on if
    /// the XDP slot is still somebody else's; otherwise [`Dataplane::attach`] is to try XDP.
    /// Nothing is changed.
    pub fn can_adopt(&self, target: &Target<'_>) -> Result<bool> {
        links::can_adopt(&self.pins, target)
    }

    /// Covers an interface with a new link: at XDP, or where that can't be had at TC. A link at TC
    /// that lives stays: it is to be adopted if it is what covers the interface
    /// ([`Outcome::kept`]), and to be taken away ([`Dataplane::remove`]) if XDP does now.
    pub fn attach(&mut self, start: Start, target: &Target<'_>) -> Result<Outcome> {
        counters::register(&self.maps, target.ifindex)?;
        let outcome = links::create(&self.pins, &mut self.entries.of(start), target)?;
        self.hold([self.pins.link(outcome.hook, target.ifindex)]);
        Ok(outcome)
    }

    /// Puts the new program into the pinned link of an interface, without a gap. Returns the hook.
    pub fn adopt(&mut self, start: Start, ifindex: u32) -> Result<Hook> {
        counters::register(&self.maps, ifindex)?;
        let hook = links::adopt(&self.pins, &mut self.entries.of(start), ifindex)?;
        self.hold([self.pins.link(hook, ifindex)]);
        Ok(hook)
    }

    /// Puts the pinned program back into the pinned link of an interface: the one that it ran
    /// before [`Dataplane::adopt`], until [`Dataplane::commit`] has replaced it.
    pub fn put_back(&mut self, start: Start, ifindex: u32) -> Result<()> {
        let directories = self.earlier_directories()?;
        let mut before = Before { directories, start, found: None, entries: &mut self.entries };
        links::adopt(&self.pins, &mut before, ifindex).map(drop)
    }

    /// Where programs were pinned before: of this version, or of the one that was to be replaced.
    pub(super) fn earlier_directories(&self) -> Result<Vec<PathBuf>> {
        let mut directories = vec![self.pins.current()];
        directories.extend(self.pins.versions()?.into_iter().filter(|one| *one != self.directory));
        Ok(directories)
    }

    /// Holds pins open. They are there, and do what they should, whatever becomes of this.
    pub(super) fn hold(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        if let Err(error) = self.held.take(&self.pins, paths) {
            tracing::warn!(%error, "a pin that is lost from now on can't be put back");
        }
    }

    fn hold_rules(&mut self) {
        if let Err(error) = self.held.take_rules(&self.pins) {
            tracing::warn!(%error, "the pin of the rules can't be put back if it is lost from now on");
        }
    }

    /// The pinned links, dead or alive.
    pub fn links(&self) -> Result<Vec<LinkState>> {
        links::list(&self.pins)
    }

    /// Removes the links of an interface that is not to be covered any more, or that is gone. Its
    /// counts are kept under "departed": an interface with a number of its own is one that is meant
    /// to be covered.
    pub fn release(&mut self, ifindex: u32) -> Result<()> {
        for hook in Hook::ALL {
            self.drop_link(hook, ifindex)?;
        }
        counters::retire(&mut self.maps, ifindex)
    }

    /// Removes one link of an interface. If it was the last one that lived, this is
    /// [`Dataplane::release`].
    pub fn remove(&mut self, hook: Hook, ifindex: u32) -> Result<()> {
        self.drop_link(hook, ifindex)?;
        if self.links()?.iter().any(|link| link.ifindex == ifindex && link.alive) {
            return Ok(());
        }
        self.release(ifindex)
    }

    fn drop_link(&mut self, hook: Hook, ifindex: u32) -> Result<()> {
        self.held.forget(&self.pins, &self.pins.link(hook, ifindex));
        links::remove(&self.pins, hook, ifindex)
    }

    /// Forgets the interfaces that are not in the list: their counts are kept under "departed".
    pub fn forget_departed(&mut self, present: &[u32]) -> Result<()> {
        for ifindex in counters::numbers(&self.maps).into_keys() {
            if !present.contains(&ifindex) {
                counters::retire(&mut self.maps, ifindex)?;
            }
        }
        Ok(())
    }

    /// Loads the programs that no door has wanted yet, makes all of them the pinned ones, and clears
    /// away what they replace: programs of an earlier daemon, and maps of another layout version.
    pub fn commit(&mut self) -> Result<()> {
        self.kernel_logs = self.entries.load_the_rest()?;
        programs::commit(&self.directory)?;
        if self.directory != self.pins.current() {
            pins::remove_tree(&self.pins.current())?;
            std::fs::rename(&self.directory, self.pins.current())
                .map_err(DataplaneError::pin("rename", &self.directory))?;
            self.directory = self.pins.current();
        }
        self.is_committed = true;
        // Of a daemon that died amid learning; its programs are in no link any more.
        if let Err(error) = self.clear_sources() {
            tracing::error!(%error, "a table of sources stays behind until somebody learns again");
        }
        // What was asked for is there: nothing that is left to do is a reason to fail.
        self.hold(self.pins.objects());
        self.hold_rules();
        if let Err(error) = self.clear_away_versions() {
            tracing::error!(%error, "pins of another version stay behind; the next start tries again");
        }
        Ok(())
    }

    fn clear_away_versions(&self) -> Result<()> {
        for stale in self.pins.versions()?.iter().filter(|path| **path != self.directory) {
            tracing::info!(
                path = %stale.display(),
                "removing pins of another version; counters and books begin at nought"
            );
            pins::remove_tree(stale)?;
        }
        Ok(())
    }

    /// Puts back what was taken from the pin directory, or all of it, if the directory is gone.
    /// Returns what was wrong, a sentence each.
    pub fn mend_pins(&mut self) -> Result<Vec<String>> {
        let lock = self.pins.mend(&self.lock)?;
        let mut mended = self.held.mend(&self.pins)?;
        if lock.is_some() {
            let (root, pins) = (self.pins.root().display(), mended.len());
            mended = vec![format!(
                "the pin directory {root} was gone or another one: made anew, with {pins} pins"
            )];
        }
        // Only now: until its pins are there, the old directory may be all that keeps the filter.
        if let Some(lock) = lock {
            self.lock = lock;
        }
        Ok(mended)
    }

    /// The kernel's id of the program that links of a hook and a start should run.
    pub fn program_id(&self, hook: Hook, start: Start) -> Result<u32> {
        let name = pins::program_name(hook, start);
        let (_, id) = sys::identity(self.entries.loaded(hook, start)?)
            .map_err(|error| DataplaneError::pin("look at", name)(error))?;
        Ok(id)
    }

    /// Makes these known as this host's own addresses, for [`Scope::Local`]. `false`, and nothing is
    /// changed, if there are too many.
    ///
    /// [`Scope::Local`]: ollama_guard_common::Scope::Local
    pub fn know_addresses(&mut self, own: &BTreeSet<IpAddr>) -> Result<bool> {
        self.addresses.update(&mut self.maps, own)
    }

    /// Reads the policy in force back from the maps.
    pub fn policy_in_force(&self) -> Result<InForce> {
        let mut in_force = contents::read(&self.maps, &self.directory, self.slots.known())?;
        if !self.slots.are_on_trial_as_meant(&self.maps) {
            in_force.found = Found::OtherTrial;
        }
        Ok(in_force)
    }

    /// Forgets what the maps of the policy were last made to hold: the rules are read back whole from
    /// here on, until there is another policy.
    pub const fn distrust_policy(&mut self) {
        self.slots.distrust();
    }

    /// The reader of the event ring. There must be only one.
    pub fn event_ring(&self) -> Result<EventRing> {
        EventRing::open(&self.directory)
    }

    /// The logs of the kernel side, with [`OpenOptions::debug`].
    pub fn take_kernel_logs(&mut self) -> Vec<KernelLog> {
        std::mem::take(&mut self.kernel_logs)
    }

    /// Refills the budget of events: `per_second` in all, `seconds` after the last time.
    pub fn refill_allowance(&mut self, per_second: u32, seconds: f64) -> Result<()> {
        let left = self.maps.allowance.get(&0, 0);
        let left = left.map_err(DataplaneError::map("read", names::ALLOWANCE))?;
        let allowance =
            self.allowance.get_or_insert_with(|| Allowance::new(per_second, left.len()));
        let values = allowance.refill(&left, seconds);
        let values = aya::maps::PerCpuValues::try_from(values).map_err(|source| {
            DataplaneError::RawMap { action: "write", map: names::ALLOWANCE, source }
        })?;
        self.maps
            .allowance
            .set(0, values, 0)
            .map_err(DataplaneError::map("write", names::ALLOWANCE))
    }

    /// Lets go of what the last change of the policy left behind.
    pub fn tidy(&mut self) {
        if self.slots.let_go(&self.maps, &self.directory) && self.is_committed {
            self.hold_rules();
        }
    }

    /// Takes everything of ours out of the kernel. The guarded ports are open afterwards.
    pub fn detach(mut self) -> Result<Vec<u32>> {
        self.is_committed = true;
        self.held.clear();
        super::detach_all(&self.pins)
    }
}

/// The pinned programs of one kind of devices, which a link ran before; where there is none, ours.
struct Before<'a> {
    /// Where to look.
    directories: Vec<PathBuf>,
    start: Start,
    found: Option<OwnedFd>,
    entries: &'a mut Entries,
}

impl Programs for Before<'_> {
    fn at(&mut self, hook: Hook) -> Result<BorrowedFd<'_>> {
        let name = pins::program_name(hook, self.start);
        let found = self.directories.iter().find_map(|one| sys::obj_get(&one.join(name)).ok());
        match found {
            Some(program) => {
                let program: &OwnedFd = self.found.insert(program);
                Ok(program.as_fd())
            }
            None => self.entries.get(hook, self.start),
        }
    }
}

/// Takes back what was loaded and never committed. Where nothing of ours is attached, nothing of
/// ours is left.
fn abandon(pins: &PinDir, directory: &Path) -> Result<()> {
    if directory == pins.current() {
        return programs::discard(directory);
    }
    pins::remove_tree(directory)?;
    if links::list(pins)?.is_empty() && !pins.current().exists() {
        super::detach_all(pins)?;
    }
    Ok(())
}

/// Makes a directory for maps that are not those of the current one, with the table of rules, and with the
/// counters of the current one if only the room for rules is another.
fn make_anew(current: &Path, directory: &Path, found: Earlier, capacity: u32) -> Result<()> {
    pins::remove_tree(directory)?;
    pins::make_dir(directory)?;
    if found == Earlier::OtherCapacity {
        tracing::info!(
            prefixes = capacity,
            "making tables with room for another number of prefixes; counters go on"
        );
        maps::share_lasting(current, directory)?;
    }
    learning::create_outer(directory)?;
    rules::create_outer(directory, capacity)
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        if self.is_committed {
            return;
        }
        if let Err(error) = abandon(&self.pins, &self.directory) {
            tracing::error!(%error, "cannot clear away what was loaded");
        }
    }
}

impl PolicySink for Dataplane {
    fn swap(&mut self, image: &MapImage, digests: &Digests) -> Result<u64> {
        let generation = self.slots.swap(&mut self.maps, &self.directory, image, digests)?;
        if self.is_committed {
            self.hold_rules();
        }
        Ok(generation)
    }

    fn try_out(&mut self, image: &MapImage, digests: &Digests, until: u64) -> Result<u64> {
        let generation =
            self.slots.try_out(&mut self.maps, &self.directory, image, digests, until)?;
        if self.is_committed {
            self.hold_rules();
        }
        Ok(generation)
    }

    fn swap_before(&mut self, image: &MapImage, digests: &Digests) -> Result<u64> {
        let generation = self.slots.swap_before(&mut self.maps, &self.directory, image, digests)?;
        if self.is_committed {
            self.hold_rules();
        }
        Ok(generation)
    }

    fn settle(&mut self, end: TrialEnd) -> Result<u64> {
        self.slots.settle(&self.maps, end)
    }

    fn services(&self) -> Vec<(u8, String)> {
        let services = table::services(self.maps.policy(), self.maps.selected_slot());
        services.into_iter().map(|(number, service)| (number, service.name)).collect()
    }
}
