//! The kernel object, loaded under pins of its own and attached to nothing unless a test says so.
//!
//! Packets run through it by `BPF_PROG_TEST_RUN`: through the twins, which answer with the reason,
//! and through the programs that would filter, which count and report.

use std::{
    os::fd::AsFd as _,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use aya::{
    TestRun as _, TestRunOptions,
    programs::{SchedClassifier, Xdp},
};
use aya_obj::programs::XdpAttachType;
use nix::net::if_::if_nametoindex;
use ollama_guard::{
    config::DEFAULT_CAPACITY,
    dataplane::{
        AttachMode, Dataplane, DataplaneError, Hook, LinkState, OpenOptions, Outcome, PinDir,
        Place, PolicySink as _, Snapshot, SourceTable, Sources, TrialEnd, Twin, links::Target,
    },
    doors::Cgroup,
    policy::{Digests, Effect, MapImage, Policy, Port, Service, compile},
};
use ollama_guard_common::{Mode, Start};
use tempfile::TempDir;

use crate::{
    bed::{Namespace, VERSION_DIRECTORY},
    policy::HostPolicy,
};

/// Which programs of the object to load, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// What a daemon would load on this kernel.
    Usual,
    /// The programs that know nothing of multi-buffer frames, whatever the kernel has: those that
    /// a kernel before 5.18 gets.
    OneBuffer,
    /// As usual, with the log of what must never happen: the largest that there is. Needs a tokio
    /// runtime.
    Logging,
}

/// The loaded object. Everything of it is removed from the kernel when it is dropped.
pub struct Loaded {
    dataplane: Option<Dataplane>,
    pins: PinDir,
    capacity: u32,
    _logs: TempDir,
}

impl Loaded {
    /// Loads the object that the library carries: the programs that a daemon would take.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or the object is not there.
    pub fn new() -> Result<Self> {
        Self::with(Variant::Usual)
    }

    /// Loads other programs of the object.
    ///
    /// # Errors
    ///
    /// As [`Loaded::new`].
    pub fn with(variant: Variant) -> Result<Self> {
        Self::of(variant, DEFAULT_CAPACITY)
    }

    /// Loads programs with room for so many prefixes.
    ///
    /// # Errors
    ///
    /// As [`Loaded::new`].
    pub fn of(variant: Variant, capacity: u32) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let pins = PinDir::new(format!("/sys/fs/bpf/og-test-{}-loaded{number}", process::id()));
        let logs = tempfile::tempdir()?;
        let options = OpenOptions {
            debug: variant == Variant::Logging,
            multi_buffer: variant != Variant::OneBuffer,
            log_directory: logs.path(),
            capacity,
        };
        let mut dataplane = Dataplane::open(pins.clone(), options)?;
        dataplane.commit()?;
        Ok(Self { dataplane: Some(dataplane), pins, capacity, _logs: logs })
    }

    /// Puts a policy in force.
    ///
    /// # Errors
    ///
    /// If it does not compile, or the kernel refuses.
    pub fn apply(&mut self, policy: &HostPolicy, mode: Mode) -> Result<u64> {
        let (image, digests) = self.image(policy, mode)?;
        Ok(self.dataplane()?.swap(&image, &digests)?)
    }

    /// Puts a policy in force on trial, for so long.
    ///
    /// # Errors
    ///
    /// As [`Loaded::apply`].
    pub fn try_out(&mut self, policy: &HostPolicy, time: Duration) -> Result<u64> {
        let (image, digests) = self.image(policy, Mode::Enforce)?;
        let until = ollama_guard::boot_clock::now()? + u64::try_from(time.as_nanos())?;
        Ok(self.dataplane()?.try_out(&image, &digests, until)?)
    }

    /// Puts a policy in the place of the one that comes back after a trial.
    ///
    /// # Errors
    ///
    /// As [`Loaded::apply`].
    pub fn apply_before(&mut self, policy: &HostPolicy) -> Result<u64> {
        let (image, digests) = self.image(policy, Mode::Enforce)?;
        Ok(self.dataplane()?.swap_before(&image, &digests)?)
    }

    /// Ends a trial. Returns the generation that is in force.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn settle(&mut self, end: TrialEnd) -> Result<u64> {
        Ok(self.dataplane()?.settle(end)?)
    }

    /// Empties the slots that nobody needs any more.
    ///
    /// # Errors
    ///
    /// If there is no dataplane any more.
    pub fn tidy(&mut self) -> Result<()> {
        self.dataplane()?.tidy();
        Ok(())
    }

    fn image(&mut self, policy: &HostPolicy, mode: Mode) -> Result<(MapImage, Digests)> {
        let rules = policy
            .allow
            .iter()
            .map(|net| (net, Effect::Allow))
            .chain(policy.deny.iter().map(|net| (net, Effect::Deny)))
            .map(|(net, effect)| {
                let prefix = net.to_string().parse()?;
                Ok((prefix, effect))
            })
            .collect::<Result<Vec<_>>>()?;
        let ports = policy.ports.iter().map(|&(protocol, number)| Port { protocol, number });
        let scope = ollama_guard_common::Policy::scope(policy);
        let plain = Policy::plain(Service::ollama(mode, ports), rules, self.capacity)?;
        let image = compile(&Policy { scope, ..plain })?;
        let digests = Digests::of(&image);
        let own = policy.own.iter().flatten().copied().collect();
        anyhow::ensure!(self.dataplane()?.know_addresses(&own)?, "too many addresses");
        Ok((image, digests))
    }

    /// Attaches it to an interface of a namespace, in the first of these modes that it takes.
    ///
    /// # Errors
    ///
    /// If the bed fails; what the kernel refuses is the inner error.
    pub fn attach(
        &mut self,
        namespace: &Namespace,
        interface: &str,
        modes: &[AttachMode],
    ) -> Result<Result<Outcome, DataplaneError>> {
        let dataplane = self.dataplane()?;
        namespace.enter(|| {
            let ifindex = if_nametoindex(interface).with_context(|| format!("no {interface}"))?;
            let target = Target { interface, ifindex, modes, occupied: None };
            Ok(dataplane.attach(Start::Link, &target))
        })?
    }

    /// Takes it from an interface of a namespace again.
    ///
    /// # Errors
    ///
    /// If the interface is not there, or the kernel refuses.
    pub fn release(&mut self, namespace: &Namespace, interface: &str) -> Result<()> {
        let ifindex = namespace.enter(|| if_nametoindex(interface))??;
        Ok(self.dataplane()?.release(ifindex)?)
    }

    /// Has the inner door stand at a cgroup.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn stand_inside(&mut self, cgroup: &Cgroup) -> Result<()> {
        let place = Place { path: cgroup.path(), directory: cgroup.as_fd(), id: cgroup.id() };
        Ok(self.dataplane()?.stand_inside(&place).map(drop)?)
    }

    /// Takes the inner door away again.
    ///
    /// # Errors
    ///
    /// If it stays.
    pub fn leave_inside(&mut self) -> Result<()> {
        Ok(self.dataplane()?.leave_inside().map(drop)?)
    }

    /// The links that are pinned.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn links(&mut self) -> Result<Vec<LinkState>> {
        Ok(self.dataplane()?.links()?)
    }

    /// Lets each CPU report, as the daemon does every tenth of a second.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn refill(&mut self, per_second: u32, seconds: f64) -> Result<()> {
        Ok(self.dataplane()?.refill_allowance(per_second, seconds)?)
    }

    /// The twin of an entry program.
    ///
    /// # Errors
    ///
    /// If it is not pinned.
    pub fn twin(&self, start: Start) -> Result<Twin> {
        self.twin_at(Hook::Xdp, start)
    }

    /// The twin of the entry program at a hook.
    ///
    /// # Errors
    ///
    /// If it is not pinned.
    pub fn twin_at(&self, hook: Hook, start: Start) -> Result<Twin> {
        Ok(Twin::open(&self.pins, hook, start)?)
    }

    /// Runs a frame through the program that would filter. Returns the XDP action.
    ///
    /// # Errors
    ///
    /// If the kernel does not take the frame.
    pub fn run(&self, start: Start, frame: &[u8], times: u32) -> Result<u32> {
        self.run_pinned(if start == Start::Link { "link" } else { "network" }, frame, times)
    }

    /// Runs a frame through the program that filters and counts by source, while this learns. Returns the
    /// action of its hook.
    ///
    /// # Errors
    ///
    /// If the kernel does not take the frame.
    pub fn run_learning(&self, hook: Hook, start: Start, frame: &[u8]) -> Result<i32> {
        let kind = if start == Start::Link { "link" } else { "network" };
        match hook {
            Hook::Xdp => Ok(self.run_pinned(&format!("{kind}-learn"), frame, 1)? as i32),
            Hook::Tcx | Hook::Clsact => self.run_pinned_tc(&format!("tc-{kind}-learn"), frame),
            Hook::Cgroup => bail!("at a cgroup, test runs are the twin's"),
        }
    }

    /// Has a table of sources made, which the programs that learn count in.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn begin_learning(&mut self, places: u32) -> Result<SourceTable> {
        Ok(self.dataplane()?.begin_learning(places)?)
    }

    /// Takes it away again, and reads what was counted.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn end_learning(&mut self, table: &SourceTable) -> Result<Sources> {
        self.dataplane()?.end_learning()?;
        Ok(table.read()?)
    }

    fn run_pinned(&self, name: &str, frame: &[u8], times: u32) -> Result<u32> {
        let program = Xdp::from_pin(self.pin(name), XdpAttachType::Interface)?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = times;
        Ok(program.test_run(options)?.return_value)
    }

    /// Runs a frame through the program that would filter at TC. Returns the TC action.
    ///
    /// # Errors
    ///
    /// If the kernel does not take the frame.
    pub fn run_tc(&self, start: Start, frame: &[u8]) -> Result<i32> {
        self.run_pinned_tc(if start == Start::Link { "tc-link" } else { "tc-network" }, frame)
    }

    fn run_pinned_tc(&self, name: &str, frame: &[u8]) -> Result<i32> {
        let program = SchedClassifier::from_pin(self.pin(name))?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        Ok(program.test_run(options)?.return_value as i32)
    }

    /// What the kernel holds.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot::read(&self.pins)?)
    }

    /// The path of a pin.
    #[must_use]
    pub fn pin(&self, name: &str) -> PathBuf {
        self.pins.root().join(VERSION_DIRECTORY).join(name)
    }

    fn dataplane(&mut self) -> Result<&mut Dataplane> {
        self.dataplane.as_mut().context("the object is gone")
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Some(dataplane) = self.dataplane.take()
            && let Err(error) = dataplane.detach()
        {
            println!("left behind: {}: {error}", self.pins.root().display());
        }
    }
}
