//! The end-to-end probe: real connections through the program that filters, in namespaces that are
//! thrown away.
//!
//! ```text
//!   knocker ---- veth ---- door, with a listener on guarded and unguarded ports
//! ```
//!
//! Neither namespace has a name, no link of ours is pinned, and everything belongs to one thread
//! of this process: the kernel removes all of it when the process ends, however that happens.
//!
//! At the door stands a [`Replica`]: the program that filters (the same tag), over the live maps
//! of the policy, with counters of its own. So the live counters, books and events know nothing of
//! these knocks, and the replica's say whether the silence was its doing. What this does not prove
//! is that the interfaces of the host run that program: the test of the doors does.
//!
//! Each knock that is to get nothing is answered first, while nothing is attached.

mod bed;

use std::{collections::BTreeSet, net::IpAddr, sync::mpsc, thread};

use ollama_guard_common::{Mode, Protocol, Reason, Verdict};
use serde::Serialize;
use thiserror::Error;

use super::{
    probes::other_port,
    standing::Standings,
    wanted::{ports, wanted},
};
use crate::{
    dataplane::{
        AttachMode, DataplaneError, PinDir, Readback, addresses, counters::Counts, replica::Replica,
    },
    policy::Port,
};

use bed::Bed;

/// Guarded TCP ports that are knocked at; more prove nothing more.
const PORTS: usize = 4;

/// Why there was no end-to-end probe.
#[derive(Debug, Error)]
pub enum LiveError {
    /// The program could not be loaded or attached.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The namespaces could not be made.
    #[error(
        "cannot {action} for the end-to-end probe: {cause}; it needs root, with CAP_SYS_ADMIN for \
         namespaces"
    )]
    Bed {
        /// What was tried.
        action: &'static str,
        /// The cause.
        cause: String,
    },
    /// The rules change all the time.
    #[error("the rules change all the time: try again when they are not being edited")]
    Unsteady,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LiveFindings {
    /// Connections that were tried.
    pub knocks: usize,
    /// Those that got nothing, as they should.
    pub silent: usize,
    /// What is wrong, a sentence each; the report has them.
    #[serde(skip)]
    pub failures: Vec<String>,
    /// What was not tried, a sentence each; the report has them.
    #[serde(skip)]
    pub not_checked: Vec<String>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Knock {
    source: IpAddr,
    port: Port,
    reason: Reason,
    /// Whether a drop is carried out.
    mode: Mode,
}

/// Knocks for real, in native and in generic mode.
///
/// # Errors
///
/// If there is nothing to try, or it cannot be tried here. That something got through, or that
/// nothing did, is no error but a finding.
pub fn knock_for_real(pins: &PinDir) -> Result<LiveFindings, LiveError> {
    let own = addresses::read(pins)?;
    let content = Readback::read(pins)?.ok_or(LiveError::Unsteady)?;
    let replica = Replica::load(pins)?;
    // A thread of its own: the namespaces are its, and go with it.
    let (tell, told) = mpsc::channel();
    thread::Builder::new()
        .name("live-probe".into())
        .spawn(move || {
            // The receiver waits as long as this thread lives.
            let _ = tell.send(probe(&content, &own, replica));
        })
        .map_err(|error| trouble("start a thread")(&error))?;
    told.recv().map_err(|error| trouble("finish")(&error))?
}

fn trouble(action: &'static str) -> impl Fn(&dyn std::fmt::Display) -> LiveError {
    move |cause| LiveError::Bed { action, cause: cause.to_string() }
}

fn probe(
    content: &Readback,
    own: &BTreeSet<IpAddr>,
    mut replica: Replica,
) -> Result<LiveFindings, LiveError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| trouble("start a runtime")(&error))?;
    runtime.block_on(async {
        let mut findings = LiveFindings::default();
        let knocks = knocks(content, &mut findings.not_checked);
        let bed = Bed::new(&knocks, content.image.scope, own).await?;
        findings.not_checked.extend(bed.left_out.iter().cloned());
        let tried: Vec<Knock> = knocks.into_iter().filter(|knock| bed.has(knock)).collect();
        let mut knocks = Vec::new();
        for (knock, answered) in bed.knock(&tried, bed::ANSWER_TIME).await? {
            if answered {
                knocks.push(knock);
            } else {
                findings.not_checked.push(format!(
                    "a real connection from {} to {}: it gets no answer even without a filter here",
                    knock.source, knock.port
                ));
            }
        }
        if !knocks.iter().any(|knock| knock.reason.verdict() == Verdict::Drop) {
            findings
                .failures
                .push("no real connection could be tried that is to be dropped".into());
        }
        for mode in [AttachMode::Native, AttachMode::Generic] {
            match bed.attach(&mut replica, mode) {
                Ok(link) => {
                    attached(&bed, &replica, &knocks, mode, &mut findings).await?;
                    drop(link);
                }
                Err(error) => {
                    findings.not_checked.push(format!("real connections in {mode} mode: {error}"));
                }
            }
        }
        Ok(findings)
    })
}

/// Who knocks where, and what is to become of it.
fn knocks(content: &Readback, not_checked: &mut Vec<String>) -> Vec<Knock> {
    let guarded = ports(&content.image);
    let tcp: Vec<Port> =
        guarded.iter().copied().filter(|port| port.protocol == Protocol::Tcp).collect();
    if tcp.len() < guarded.len() || tcp.len() > PORTS {
        not_checked.push(format!(
            "real connections to other than the first {PORTS} guarded TCP ports: the test runs \
             cover the others"
        ));
    }
    let mut knocks = Vec::new();
    let other = tcp.first().and_then(|&port| other_port(port, &guarded));
    for &port in tcp.iter().take(PORTS) {
        let Some((pairs, mode)) = wanted(&content.image, port) else { continue };
        for standings in Standings::of(&content.image, pairs).iter().flatten() {
            for reason in [Reason::NotListed, Reason::Denied, Reason::Allowed] {
                let Some(source) = standings.source(reason) else { continue };
                knocks.push(Knock { source, port, reason, mode });
                let reason = Reason::NotGuarded;
                let other = other.map(|port| Knock { source, port, reason, mode });
                knocks.extend(other.filter(|other| !knocks.contains(other)));
            }
        }
    }
    knocks
}

/// Knocks with the program in place, and looks whether the silence was its doing.
async fn attached(
    bed: &Bed,
    replica: &Replica,
    knocks: &[Knock],
    mode: AttachMode,
    findings: &mut LiveFindings,
) -> Result<(), LiveError> {
    let drops = |counts: &Counts| Mode::ALL.map(|mode| counts.drops(mode)).iter().sum::<u64>();
    let before = drops(&replica.counts()?);
    let mut to_drop = 0;
    for (knock, answered) in bed.knock(knocks, bed::SILENCE).await? {
        let is_drop = knock.reason.verdict() == Verdict::Drop;
        to_drop += u64::from(is_drop);
        findings.knocks += 1;
        findings.silent += usize::from(!answered);
        if answered == (is_drop && knock.mode == Mode::Enforce) {
            findings.failures.push(format!(
                "a real connection in {mode} mode from {} ({}) to {} was {}",
                knock.source,
                knock.reason.name(),
                knock.port,
                if answered { "answered" } else { "not answered" },
            ));
        }
    }
    let counted = drops(&replica.counts()?) - before;
    if counted < to_drop {
        findings.failures.push(format!(
            "{to_drop} real connections in {mode} mode were to be dropped, and the program counted \
             {counted} packets to drop"
        ));
    }
    Ok(())
}
