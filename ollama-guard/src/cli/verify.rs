//! `ollama-guard verify`: whether every door holds, proven and not believed.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use ollama_guard_common::{Mode, Scope};
use tokio::time::{sleep, timeout};

use super::{NO, SocketArg, status, written};
use crate::{
    config::DEFAULT_PIN_DIR,
    control::{
        Client, ClientError,
        protocol::{RuleList, RuleView, ServiceTerms},
    },
    daemon::proof,
    dataplane::{Hook, INNER_NAME, PinDir, check_privileges, readback::generation},
    policy::{Layout, Policy, Service, Statement, compile},
    status::{DaemonStatus, StatusError, StatusReport, report},
    verify::{Findings, Meant, VerifyReport, examine, live::knock_for_real},
};

/// How long the daemon may take to say what it means to be in force.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the whole is tried while rules are being edited, and how far apart.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Knock for real, too: connections in throw-away network namespaces, through the program that
    /// filters and the live rules; nothing of it is counted, and the doors are not touched
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    socket: SocketArg,
    /// Where programs, maps and links are pinned [default: where the daemon has them, or
    /// /sys/fs/bpf/ollama-guard]
    #[arg(long, value_name = "DIR", env = "OLLAMA_GUARD_PIN_DIR")]
    pin_dir: Option<PathBuf>,
}

/// Tries every door. Exit status 0 only if everything holds and every interface that should be a
/// door is one, 1 if not.
pub(super) async fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    check_privileges()?;
    let report = prove(&args).await?.concluded();
    let text = if args.json { serde_json::to_string(&report)? } else { report.to_string() };
    let done = written(writeln!(io::stdout(), "{text}"))?;
    Ok(if report.holds { done } else { ExitCode::from(NO) })
}

async fn prove(args: &VerifyArgs) -> anyhow::Result<VerifyReport> {
    let socket = &args.socket.socket;
    let told = match status::read(socket, args.pin_dir.as_deref()).await {
        Ok(Some(told)) => told,
        Ok(None) => return Ok(only(nothing_loaded(args.pin_dir.as_deref()))),
        Err(error) if is_damage(&error) => return Ok(only(format!("{error:#}"))),
        Err(error) => return Err(error),
    };
    let pins = PinDir::new(
        args.pin_dir
            .as_deref()
            .or(told.daemon.pin_dir.as_deref())
            .unwrap_or(Path::new(DEFAULT_PIN_DIR)),
    );
    // What the daemon tells is looked at with our own eyes, too.
    let seen = match report(&pins, None, DaemonStatus::default()).await {
        Ok(seen) => seen,
        Err(error) if error.is_damage() => return Ok(only(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    let findings = match find(socket, &pins, &told, &seen).await? {
        Ok(findings) => findings,
        Err(failure) => return Ok(only(failure)),
    };
    let mut report = proof::assemble(&told, &seen, &findings);
    if told.scope == Scope::Local.name() && is_our_namespace(&told, &seen) {
        report.failures.extend(proof::unguarded_addresses(&pins).await?);
    }
    if args.live {
        for (hooks, place) in
            [(&[Hook::Tcx, Hook::Clsact][..], "TC ingress"), (&[Hook::Cgroup], INNER_NAME)]
        {
            if told.doors.iter().any(|door| door.hook.is_some_and(|hook| hooks.contains(&hook))) {
                let what = format!("real connections through the program at {place}");
                report.not_checked.push(what);
            }
        }
        let live = knock_for_real(&pins)?;
        report.failures.extend(live.failures.iter().cloned());
        report.not_checked.extend(live.not_checked.iter().cloned());
        report.live = Some(live);
    }
    Ok(report)
}

/// Whether the interfaces that the daemon tells of are those that we see.
fn is_our_namespace(told: &StatusReport, seen: &StatusReport) -> bool {
    // The inner door is in none.
    let interfaces = || told.doors.iter().filter(|door| door.hook != Some(Hook::Cgroup));
    interfaces().all(|door| {
        seen.doors.iter().any(|one| (&one.name, one.ifindex) == (&door.name, door.ifindex))
    })
}

/// A report of one failure that leaves nothing to try.
fn only(failure: String) -> VerifyReport {
    VerifyReport { failures: vec![failure], ..VerifyReport::default() }
}

fn nothing_loaded(pin_dir: Option<&Path>) -> String {
    let pins = pin_dir.unwrap_or(Path::new(DEFAULT_PIN_DIR));
    format!(
        "no guard is loaded under {}: the ports are open; start one with `ollama-guard run`",
        pins.display()
    )
}

/// Whether an error is itself an answer: pins that are missing or are not what they should be.
fn is_damage(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StatusError>().is_some_and(StatusError::is_damage)
        // The daemon could not read them either.
        || matches!(error.downcast_ref(), Some(ClientError::Refused { .. }))
}

/// Tries the programs and the maps' content, again if rules were edited meanwhile. The inner error
/// is a failure to be told.
async fn find(
    socket: &Path,
    pins: &PinDir,
    told: &StatusReport,
    seen: &StatusReport,
) -> anyhow::Result<Result<Findings, String>> {
    let programs = proof::programs(told, seen);
    let mut meant = None;
    for _ in 0..ATTEMPTS {
        meant = match meant_by_the_daemon(socket, told).await {
            Ok(meant) => meant,
            Err(failure) => return Ok(Err(failure)),
        };
        match examine(pins, meant.as_ref(), &programs) {
            Ok(Some(mut findings)) => {
                if meant.is_none() {
                    findings.not_checked.insert(
                        "whether the rules in the kernel, as they were written, are those that \
                         were meant: no daemon answers that knows them"
                            .into(),
                    );
                }
                return Ok(Ok(findings));
            }
            Ok(None) => sleep(PAUSE).await,
            Err(error) => {
                let error = StatusError::from(error);
                return if error.is_damage() {
                    Ok(Err(error.to_string()))
                } else {
                    Err(error.into())
                };
            }
        }
    }
    let in_force = generation(pins)?;
    Ok(Err(match meant.map(|meant| meant.generation) {
        Some(meant) if meant != in_force => format!(
            "the policy in force has the number {in_force}, and the daemon's has {meant}: \
             something else writes to the maps; restart the daemon"
        ),
        _ => "the rules change all the time: try again when they are not being edited".into(),
    }))
}

/// The policy as the daemon means it to be. `None` if none runs that could say it. The error is a
/// failure to be told.
async fn meant_by_the_daemon(socket: &Path, told: &StatusReport) -> Result<Option<Meant>, String> {
    if !told.daemon.running {
        return Ok(None);
    }
    let list = match timeout(PATIENCE, Client::new(socket).rules()).await {
        Ok(Ok(list)) => list,
        Ok(Err(error)) => return Err(format!("the daemon does not tell its rules: {error}")),
        Err(_) => return Err("the daemon does not tell its rules: it does not answer".into()),
    };
    let generation = list.generation;
    let policy = policy(list, told)
        .map_err(|error| format!("what the daemon tells cannot be read: {error:#}"))?;
    let image = policy
        .as_ref()
        .map(compile)
        .transpose()
        .map_err(|error| format!("the daemon's rules do not compile: {error}"))?;
    Ok(image.map(|image| Meant { generation, image }))
}

/// `None` if the daemon is an older one, which does not tell everything.
fn policy(list: RuleList, told: &StatusReport) -> anyhow::Result<Option<Policy>> {
    let Some(terms) = list.terms else { return Ok(None) };
    // Of names also where they have no address at present, as the daemon tells doors apart.
    let of_names = list.names.iter().filter_map(|name| name.limits.as_ref());
    let limits = list.rules.iter().filter_map(|rule| rule.limits.as_ref()).chain(of_names);
    let numbers: Vec<_> = terms.services.iter().map(|one| (one.number, one.name.clone())).collect();
    let services = terms.services.iter().map(service).collect::<anyhow::Result<_>>()?;
    let layout = Layout::new(services, &numbers, limits, &terms.doors)?;
    let statement = |view: &RuleView| -> anyhow::Result<Option<Statement>> {
        let (prefix, effect) = (view.prefix.parse()?, view.effect);
        let pairs = layout.pairs(effect, view.limits.as_ref());
        Ok((pairs != 0).then_some(Statement { prefix, effect, pairs }))
    };
    let rules = list.rules.iter().filter_map(|view| statement(view).transpose());
    Ok(Some(Policy {
        scope: Scope::ALL
            .into_iter()
            .find(|scope| scope.name() == terms.scope)
            .ok_or_else(|| anyhow::anyhow!("there is no scope {}", terms.scope))?,
        rules: rules.collect::<anyhow::Result<_>>()?,
        layout,
        capacity: told.rules.capacity,
    }))
}

fn service(terms: &ServiceTerms) -> anyhow::Result<Service> {
    let mode = Mode::ALL.into_iter().find(|mode| mode.name() == terms.mode);
    Ok(Service {
        name: terms.name.as_str().into(),
        mode: mode.ok_or_else(|| anyhow::anyhow!("there is no mode {}", terms.mode))?,
        ports: terms.ports.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
    })
}
