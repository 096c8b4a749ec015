//! Host names: the room that looks them up, and the guard that uses what it finds.

use std::{future::Future, path::Path, pin::pin};

use tokio::sync::{mpsc, watch};

use crate::{
    config::AnswerStore,
    dataplane::PolicySink,
    guard::{Guard, Handle, Moment},
    names::{Room, SystemResolver},
};

/// Answers that may wait for the guard.
const QUEUE: usize = 16;

/// Gives the guard what names had when a daemon ran last. That can't be had is no reason not to start: names are
/// looked up all the same.
pub(super) fn remember<S: PolicySink>(guard: &mut Guard<S>, state_dir: &Path) {
    let (store, last) = AnswerStore::open(state_dir);
    let last = last.unwrap_or_else(|error| {
        tracing::error!("the last addresses of host names are lost: {error}");
        Vec::new()
    });
    if let Err(error) = guard.know_answers(store, last, &Moment::now()) {
        tracing::error!("the last addresses of host names are not put in force: {error}");
    }
}

/// Looks names up and hands what is found to the guard, until `stop` is ready.
pub(super) async fn run(
    handle: Handle,
    again: watch::Receiver<u64>,
    stop: impl Future<Output = ()>,
) {
    let (to, mut found) = mpsc::channel(QUEUE);
    let room =
        Room { resolver: SystemResolver::default(), wanted: handle.wanted(), again, found: to };
    let mut room = pin!(room.run(stop));
    loop {
        tokio::select! {
            () = &mut room => return,
            Some(one) = found.recv() => {
                if handle.resolved(one).await.is_err() {
                    // The guard has ended; `stop` follows.
                    return;
                }
            }
        }
    }
}
