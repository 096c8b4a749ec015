//! The daemon: the composition root. The only room that knows every room, and the only one that
//! starts long-lived tasks.
//!
//! Three phases: [`launch()`] reads the configuration before anything is touched; [`start`] builds
//! everything, and whatever fails there leaves the kernel as it was; [`Daemon::run`] serves until
//! a signal or `detach`. Ending, cleanly or not, leaves the filter in place.

#![forbid(unsafe_code)]

mod backend;
mod confine;
mod cover;
mod error;
mod events;
mod history;
mod host;
mod inner;
mod keeper;
mod launch;
mod learn;
mod names;
mod notices;
pub mod proof;
mod readiness;
mod reload;
mod scrape;
mod selection;
mod supervisor;
mod tender;

use std::{
    fs::{DirBuilder, File},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::Arc,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};
use ollama_guard_common::Scope;
use tokio::{
    net::UnixListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
};

use crate::{
    audit_log::AuditLog,
    config::{Config, InnerNote, LastGood, ModeStore, RuleStore},
    control::{AccessRules, ControlConfig, Limits, peer, serve, socket},
    dataplane::{Dataplane, KernelLog, OpenOptions, PinDir, check_privileges, ring::EventRing},
    doctor,
    doors::{Watch, list_addresses},
    events::{Clock, Journal},
    guard::{self, Desired, Guard, Handle, Moment},
    metrics::{self, Place, Watched},
};

pub use error::StartError;
pub use host::Host;
pub use launch::{LaunchError, launch};
use reload::Said;
pub use reload::Sources;
pub use selection::Chosen;

/// A daemon that is ready to run: programs loaded, policy in force, doors covered, socket bound.
pub struct Daemon {
    handle: Handle,
    ended: oneshot::Receiver<()>,
    ring: EventRing,
    kernel_logs: Vec<KernelLog>,
    journal: Arc<Journal>,
    history: Arc<history::History>,
    listener: UnixListener,
    socket_file: socket::SocketFile,
    backend: Arc<backend::LiveBackend>,
    control: ControlConfig,
    settings: watch::Receiver<reload::Settings>,
    reloader: Arc<reload::Reloader>,
    keeper: keeper::Keeper,
    supervisor: supervisor::Supervisor,
    metrics: Watched,
    scraped: scrape::LiveSource,
    signals: Signals,
    hangup: Signal,
    state_lock: Flock<File>,
}

/// Who asks for the end: SIGTERM is systemd's and Kubernetes' word, SIGINT the keyboard's.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Why the daemon ended.
enum End {
    Signal(&'static str),
    Detached,
}

/// Builds everything. Needs a tokio runtime. `sources` is where the configuration came from: it is read
/// again when it changes.
async fn start(config: &Config, sources: Sources) -> Result<Daemon, StartError> {
    // Before anything else, so that no signal is lost once there is something to leave in order.
    let signals = Signals {
        terminate: signal(SignalKind::terminate()).map_err(StartError::Signals)?,
        interrupt: signal(SignalKind::interrupt()).map_err(StartError::Signals)?,
    };
    let hangup = signal(SignalKind::hangup()).map_err(StartError::Signals)?;
    check_privileges()?;
    let state = &config.paths.state_dir;
    make_state_dir(state)?;
    let state_lock = lock_state_dir(state)?;
    let store = RuleStore::open(state)?;
    let (config, said) = Said::with(ModeStore::open(state)?, config.clone());
    let config = &config;
    let audit = AuditLog::open(state)?;
    let chosen = Chosen::new(config);
    // Before the listing, so that no change between the two is missed.
    let watch = Watch::open(config.scope == Scope::Local)?;
    // There is none before the first start.
    let kept = LastGood::new(state).recall();
    let ran_before = kept.is_ok();
    let known = kept.map(|kept| kept.interfaces).unwrap_or_default();
    let plan = cover::plan(&chosen, &known).await?;
    for finding in doctor::said_at_start(&config.ports(), config.scope, plan.doors()) {
        tracing::warn!("{finding}");
    }

    let pins = PinDir::new(&config.paths.pin_dir);
    let options = OpenOptions {
        debug: config.debug_kernel,
        multi_buffer: true,
        log_directory: state,
        capacity: config.capacity,
    };
    let dataplane = Dataplane::open(pins.clone(), options)?;
    let group = peer::group_id().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot look up the group: only root may talk to the daemon");
        None
    });
    let (listener, socket_file) = socket::bind(&config.paths.socket, group)?;

    let is_adopted = dataplane.is_adopted();
    let confirmation = inner::Confirmation::open(InnerNote::new(state), ran_before || is_adopted);
    let confirmation = Arc::new(confirmation);
    let observes = confirmation.observes(&config.inner);
    let mut guard = Guard::new(dataplane, Desired::from(config), store)?;
    // First of all: what has ended while no daemon ran is in no policy from here on.
    let ended_before = guard.end_due(&Moment::now());
    names::remember(&mut guard, state);
    if guard.is_closed() {
        let is_observed = config.observed().count() == config.services.len();
        let word = if is_observed { "would be" } else { "is" };
        tracing::warn!(
            "the allowlist is empty: every packet to a guarded port {word} dropped; let somebody \
             in with `ollama-guard allow add`"
        );
    }
    if config.scope == Scope::Local {
        let own = keeper::own_destinations(&list_addresses().await?);
        if let Err(error) = guard.know_addresses(Some(&own)) {
            tracing::error!("{error}");
        }
    }
    guard.know_doors(cover::names(&plan))?;
    // New maps get the policy before any program that reads them is attached. Adopted ones have a
    // policy, which stays in force until nothing can fail any more.
    if !is_adopted {
        guard.apply()?;
    }
    // A full budget, so that the first drops are told.
    guard.sink_mut().refill_allowance(config.events_per_second, 0.0)?;
    let ring = guard.sink_mut().event_ring()?;
    cover::cover(guard.sink_mut(), &plan, observes)?;
    if is_adopted {
        guard.apply()?;
    }
    // From here on everything that was asked for is in force, and nothing may fail the start.
    inner::warn_of_containers(&guard, plan.inner()).await;
    let dataplane = guard.sink_mut();
    cover::settle(dataplane, &plan);
    let kernel_logs = dataplane.take_kernel_logs();

    // What can't be had here stops nothing, and below the walls a port may not be had any more.
    let (metrics, mover) = metrics::watched(Place::new(config.metrics.address()));
    // Nothing is loaded from here on, and the guard's thread is to be born within.
    confine::confine(&confine::Needs::of(config)).await;
    let (handle, ended) = guard::spawn(guard, audit, ended_before).map_err(StartError::Thread)?;
    let journal = Arc::new(Journal::default());
    let history = history::History::start(state, config.events_keep, Clock::now().ok());
    let history = Arc::new(history);
    let notices = Arc::new(notices::Notices::default());
    let service_uid = geteuid().as_raw();
    let access = AccessRules { service_uid, group, group_may_edit: config.control.group_may_edit };
    let (to_settings, settings) = watch::channel(reload::Settings::of(config));
    let (to_access, access) = watch::channel(access);
    let reloader = reload::Reloader::new(
        sources,
        (config.clone(), said),
        handle.clone(),
        to_settings,
        to_access,
        mover.clone(),
    );
    let reloader = Arc::new(reloader);
    let keeper = keeper::Keeper::new(
        handle.clone(),
        settings.clone(),
        Arc::clone(&notices),
        Arc::clone(&confirmation),
        watch,
    );
    let supervisor = supervisor::Supervisor {
        handle: handle.clone(),
        pins: pins.clone(),
        settings: settings.clone(),
        reloader: Arc::clone(&reloader),
        socket: socket_file.path().to_owned(),
    };
    let backend = Arc::new(backend::LiveBackend {
        handle: handle.clone(),
        journal: Arc::clone(&journal),
        history: Arc::clone(&history),
        pins,
        settings: settings.clone(),
        notices: Arc::clone(&notices),
        reloader: Arc::clone(&reloader),
        metrics: mover,
        learner: learn::Learner::new(handle.clone()),
        confirmation,
    });
    let scraped = scrape::LiveSource::new(Arc::clone(&backend), handle.clone(), notices);
    Ok(Daemon {
        handle,
        ended,
        ring,
        kernel_logs,
        journal,
        history,
        listener,
        socket_file,
        backend,
        control: ControlConfig { access, limits: Limits::default() },
        settings,
        reloader,
        keeper,
        supervisor,
        metrics,
        scraped,
        signals,
        hangup,
        state_lock,
    })
}

impl Daemon {
    /// Serves until a signal or `detach`.
    pub async fn run(self) {
        let Self { handle, ended, ring, kernel_logs, journal, history, listener, .. } = self;
        let (stop, stopping) = watch::channel(false);
        for log in kernel_logs {
            tokio::spawn(async move {
                if let Err(error) = log.run().await {
                    tracing::error!(%error, "the kernel side's log can't be read any more");
                }
            });
        }
        let kept = Arc::clone(&history);
        let reader = events::Reader::new(ring, journal, kept, handle.clone(), self.settings);
        let events = tokio::spawn(reader.run(until(stopping.clone())));
        let keeper = tokio::spawn(self.keeper.run(until(stopping.clone())));
        let again = self.reloader.names();
        let names = tokio::spawn(names::run(handle.clone(), again, until(stopping.clone())));
        let reloader = tokio::spawn(self.reloader.follow(self.hangup, until(stopping.clone())));
        let server =
            tokio::spawn(serve(listener, self.backend, self.control, until(stopping.clone())));
        let living = [
            ("the reader of events", &events),
            ("the keeper of the doors", &keeper),
            ("the resolver of host names", &names),
            ("the reader of the configuration", &reloader),
            ("the control socket", &server),
        ];
        let scraped = self.scraped.watching(living.map(|(name, task)| (name, task.abort_handle())));
        let (metrics, limits) = (self.metrics, metrics::Limits::default());
        let metrics =
            tokio::spawn(metrics::serve(metrics, Arc::new(scraped), limits, until(stopping)));
        let end = tokio::select! {
            end = self.signals.wait(ended) => end,
            never = self.supervisor.attend() => match never {},
        };
        supervisor::stopping();
        stop.send_replace(true);
        for task in [metrics, events, keeper, names, reloader, server] {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task did not end well");
            }
        }
        // The last events; a disk that does not answer keeps nobody from ending.
        let _ = history.flush().await;
        match end {
            End::Signal(name) => tracing::info!(
                "ended by {name}; the filter stays in place (`ollama-guard detach` removes it)"
            ),
            End::Detached => tracing::info!("detached: nothing of ours is left in the kernel"),
        }
        drop(self.socket_file);
        drop(self.state_lock);
    }
}

impl Signals {
    async fn wait(mut self, ended: oneshot::Receiver<()>) -> End {
        tokio::select! {
            _ = self.terminate.recv() => End::Signal("SIGTERM"),
            _ = self.interrupt.recv() => End::Signal("SIGINT"),
            _ = ended => End::Detached,
        }
    }
}

async fn until(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the end as well.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Two daemons that write the same rules would lose each other's.
fn lock_state_dir(path: &Path) -> Result<Flock<File>, StartError> {
    let trouble = |source| StartError::StateDir { path: path.into(), source };
    let directory = File::open(path).map_err(trouble)?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => StartError::StateDirTaken { path: path.into() },
        errno => trouble(errno.into()),
    })
}

fn make_state_dir(path: &Path) -> Result<(), StartError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StartError::StateDir { path: path.into(), source })
}
