//! Everybody at once: strangers flood and knock, friends ask, and nobody may see that something happens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};

use super::Scene;
use crate::{
    bed::{Answer, UnderFlood, get},
    cluster::ways::{Asker, HEALTH, SERVED, SILENT, Way},
};

/// What came of it.
#[derive(Debug)]
pub(super) struct Load {
    flood: UnderFlood,
    /// What the pod that is let in got.
    pod: Tally,
    /// What strangers got that knocked by every way, outside and in a pod.
    strangers: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    asked: usize,
    wrong: Vec<String>,
}

impl Load {
    /// Lets `work` happen under load, which comes by these ways.
    pub(super) fn during<'s>(
        scene: &mut Scene<'s>,
        ways: &[Way],
        work: impl FnOnce(&mut Scene<'s>) -> Result<()>,
    ) -> Result<Self> {
        let is_over = &AtomicBool::new(false);
        let bed = scene.bed;
        // Their own handles, because the work has the scene.
        let (friend, stranger) = (Arc::clone(&scene.friend), Arc::clone(&scene.stranger));
        thread::scope(|scope| {
            let pods = scope.spawn(|| tally(Asker::pod(&friend, true), ways, is_over));
            let knocking: Vec<_> = [
                Asker::outside(&bed.stranger4, false),
                Asker::outside(&bed.stranger6, false),
                Asker::pod(&stranger, false),
            ]
            .map(|asker| scope.spawn(move || tally(asker, ways, is_over)))
            .into();
            let flood = UnderFlood::during_asking(bed, HEALTH, || work(scene));
            is_over.store(true, Ordering::Relaxed);
            let joined = |thread: thread::ScopedJoinHandle<'_, Result<Tally>>| {
                thread.join().unwrap_or_else(|_| Err(anyhow!("a client panicked")))
            };
            let pod = joined(pods);
            let mut strangers = Tally::default();
            for thread in knocking {
                let tally = joined(thread)?;
                strangers.asked += tally.asked;
                strangers.wrong.extend(tally.wrong);
            }
            Ok(Self { flood: flood?, pod: pod?, strangers })
        })
    }

    /// In figures.
    ///
    /// # Errors
    ///
    /// If a stranger got in, or a friend did not.
    pub(super) fn told(&self) -> Result<String> {
        let Self { flood, pod, strangers } = self;
        ensure!(flood.passed == 0, "{} packets of strangers got past the door", flood.passed);
        ensure!(flood.answered == 0, "strangers were answered {} times", flood.answered);
        ensure!(flood.failures.is_empty(), "the friend got {:?}", flood.failures);
        ensure!(pod.wrong.is_empty(), "the friend's pod got {:?}", pod.wrong);
        ensure!(strangers.wrong.is_empty(), "strangers got {:?}", strangers.wrong);
        ensure!(flood.served > 0 && pod.asked > 0 && strangers.asked > 0, "nobody asked: {self:?}");
        Ok(format!(
            "of {} forbidden SYNs and {} forbidden connections 0 got in; of {} + {} allowed requests \
             (outside + from a pod) 0 failed",
            flood.flooded, strangers.asked, flood.served, pod.asked
        ))
    }
}

/// Asks by every way, over and over.
fn tally(asker: Asker<'_>, ways: &[Way], is_over: &AtomicBool) -> Result<Tally> {
    let mut tally = Tally::default();
    let sockets = ways
        .iter()
        .filter(|way| asker.is_friend || !way.hides(&asker))
        .flat_map(|way| way.sockets.iter().filter(|server| asker.speaks(server)));
    let sockets: Vec<_> = sockets.collect();
    for server in sockets.into_iter().cycle() {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let patience = if asker.is_friend { SERVED } else { SILENT };
        let answer = get(asker.namespace, *server, HEALTH, patience);
        let is_right = match &answer {
            Ok(answer) if asker.is_friend => answer.is_served(),
            Ok(answer) => *answer == Answer::NoAnswer,
            // There is no way there at all: kube-proxy has taken it away.
            Err(_) => !asker.is_friend,
        };
        tally.asked += 1;
        if !is_right {
            tally.wrong.push(format!("{} at {server}: {answer:?}", asker.namespace.name()));
        }
        if asker.is_friend {
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(tally)
}
