//! The keeper: sees to it that what should be guarded is, for as long as the daemon runs.
//!
//! Interfaces come, go and change, and other tools touch links, pins and maps. The keeper lists
//! the interfaces whenever the kernel says that one has changed, and every other second without
//! being told, and has the guard's thread compare what there is with what there should be; see
//! [`Tender`]. So a change that was not told, or whose message was lost, is found all the same.

use std::{
    collections::BTreeSet, future::Future, net::IpAddr, pin::pin, sync::Arc, time::Duration,
};

use ollama_guard_common::Scope;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    cover::CoverPlan,
    inner::Confirmation,
    notices::Notices,
    reload::Settings,
    tender::{Round, Tender},
};
use crate::{
    doors::{self, DoorsError, HostAddress, Watch},
    guard::{Handle, Stopped},
};

/// How often everything is looked at without being told. Drift is to be noticed within five
/// seconds, and what two rounds have to agree on takes two.
const TICK: Duration = Duration::from_secs(2);
/// Between two rounds, however much the kernel has to tell.
const BREATH: Duration = Duration::from_millis(20);
/// How long a round waits for the next one to confirm what it saw.
const AGAIN: Duration = Duration::from_millis(50);

/// The task that keeps the doors.
pub(super) struct Keeper {
    handle: Handle,
    settings: watch::Receiver<Settings>,
    notices: Arc<Notices>,
    confirmation: Arc<Confirmation>,
    watch: Option<Watch>,
    tender: Tender,
    /// What is watched: with [`Scope::Local`] this host's addresses are kept, too.
    scope: Scope,
    /// Whether the operator has chosen anew since the last round.
    is_new: bool,
}

/// The destinations for which packets are this host's.
pub(super) fn own_destinations(addresses: &[HostAddress]) -> BTreeSet<IpAddr> {
    addresses.iter().flat_map(HostAddress::destinations).collect()
}

impl Keeper {
    /// Takes over from the start, which has covered the doors that there were.
    pub(super) fn new(
        handle: Handle,
        settings: watch::Receiver<Settings>,
        notices: Arc<Notices>,
        confirmation: Arc<Confirmation>,
        watch: Watch,
    ) -> Self {
        let scope = settings.borrow().scope;
        Self {
            handle,
            settings,
            notices,
            confirmation,
            watch: Some(watch),
            tender: Tender::default(),
            scope,
            is_new: false,
        }
    }

    /// Keeps until `stop` is ready.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first round is at once: between the listing at the start and the opening of the
        // watch something may have changed.
        let mut again: Option<Instant> = None;
        let mut settings = self.settings.clone();
        loop {
            tokio::select! {
                () = &mut stop => return,
                _ = tick.tick() => {}
                // Should the sender be gone, `stop` follows.
                Ok(()) = settings.changed() => self.watch_anew(),
                () = self.changed() => {}
                () = sleep(AGAIN), if again.is_some() => {}
            }
            let is_unsure = tokio::select! {
                () = &mut stop => return,
                round = self.round() => match round {
                    Ok(is_unsure) => is_unsure,
                    // The guard has ended; `stop` follows.
                    Err(Stopped) => return,
                },
            };
            again = is_unsure.then(Instant::now);
            sleep(BREATH).await;
        }
    }

    /// Follows another configuration.
    fn watch_anew(&mut self) {
        self.is_new = true;
        let scope = self.settings.borrow().scope;
        if scope != self.scope {
            self.scope = scope;
            self.watch = Watch::open(scope == Scope::Local).ok();
        }
    }

    /// Waits for the kernel's word. Without a working socket there is only the tick.
    async fn changed(&mut self) {
        let Some(watch) = &self.watch else {
            return std::future::pending().await;
        };
        if let Err(error) = watch.changed().await {
            tracing::error!(
                %error,
                "changes of interfaces are not told any more: they are looked for every {} s",
                TICK.as_secs()
            );
            self.watch = Watch::open(self.scope == Scope::Local).ok();
        }
    }

    /// Looks at everything once. Returns whether to look again at once.
    async fn round(&mut self) -> Result<bool, Stopped> {
        let interfaces = match doors::list().await {
            Ok(interfaces) => interfaces,
            Err(error) => {
                self.tell(Round::trouble(error.to_string()));
                return Ok(false);
            }
        };
        let own = self.own_addresses().await;
        let (plan, observes) = {
            let chosen = &self.settings.borrow().chosen;
            let observes = self.confirmation.observes(chosen.inner());
            (CoverPlan::of(chosen, &interfaces), observes)
        };
        let mut tender = std::mem::take(&mut self.tender);
        let is_new = std::mem::take(&mut self.is_new);
        let (tender, round) = self
            .handle
            .maintain(move |guard| {
                // First: until a new address is known, it is not guarded.
                let known = own.map(|own| match own {
                    Ok(own) => guard.know_addresses(Some(&own)).map_err(|e| e.to_string()),
                    Err(error) => guard.know_addresses(None).map_err(|e| format!("{e}: {error}")),
                });
                let mut round = tender.tend(guard, &plan, is_new, observes);
                round.troubles.extend(known.and_then(Result::err));
                (tender, round)
            })
            .await?;
        self.tender = tender;
        let is_unsure = round.is_unsure;
        self.tell(round);
        Ok(is_unsure)
    }

    /// The destinations for which packets are this host's; `None` if nobody asks.
    async fn own_addresses(&self) -> Option<Result<BTreeSet<IpAddr>, DoorsError>> {
        if self.scope == Scope::All {
            return None;
        }
        Some(doors::list_addresses().await.map(|addresses| own_destinations(&addresses)))
    }

    fn tell(&self, round: Round) {
        for repair in round.repairs {
            tracing::warn!("drift: {repair}");
            self.notices.repaired(repair);
        }
        for trouble in self.notices.set_troubles(&round.troubles) {
            tracing::error!("{trouble}");
        }
    }
}
