//! `ollama-guard explain`: what would happen to a packet, by the word of the kernel.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    net::IpAddr,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use ollama_guard_common::{Reason, Scope, Start, Verdict};
use serde::Serialize;
use tokio::time::timeout;

use super::{NO, PinDirArg, SocketArg, written};
use crate::{
    control::{Client, protocol::RuleView},
    dataplane::{
        Hook, INNER_NAME, PinDir, Snapshot, Twin, addresses, counters::INNER_DOOR, matching_rule,
    },
    doors,
    policy::{Effect, End, Limits, Origin, Port, Prefix, Rule, deciding_rule, span},
    verify::{destination, knock},
};

/// How long the daemon may take to say where a rule comes from.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The source address
    address: IpAddr,
    /// The port that it knocks on [default: the first guarded port]
    #[arg(long, value_name = "PORT[/PROTO]")]
    port: Option<Port>,
    /// The interface that it arrives on [default: one with an Ethernet header]
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// At the inner door, before the sockets, by whatever way it came there
    #[arg(long, conflicts_with = "interface")]
    inner: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
    #[command(flatten)]
    pins: PinDirArg,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Explanation {
    source: IpAddr,
    port: String,
    verdict: &'static str,
    reason: &'static str,
    mode: String,
    generation: u64,
    /// The service that the port is of, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<DecidingRule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// The rule that decided.
#[derive(Debug, Serialize)]
struct DecidingRule {
    prefix: String,
    effect: Effect,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    origin: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<End>,
}

/// Explains. Exit status 1 if the packet would be dropped.
pub(super) async fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let pins = PinDir::new(&args.pins.pin_dir);
    let snapshot = Snapshot::read(&pins)?;
    let port = match args.port {
        Some(port) => port,
        None => match snapshot.ports.first() {
            Some(port) => port.parse()?,
            None => bail!("no port is guarded"),
        },
    };
    let Arrival { hook, start, ifindex, uncovered } = arrival(&args, &snapshot).await?;
    if let Some(interface) = uncovered {
        return say_uncovered(&args, port, &interface, snapshot);
    }
    let service = snapshot.services.iter().find(|one| one.ports.contains(&port.to_string()));
    let service = service.filter(|_| snapshot.services.len() > 1).map(|one| one.name.clone());
    let own = if snapshot.scope == Scope::Local.name() {
        addresses::read(&pins)?
    } else {
        BTreeSet::new()
    };
    let here = destination(args.address, &own);
    let frame = knock(args.address, here, port, start);
    let twin = Twin::open(&pins, hook, start)?;
    let answer = match ifindex.filter(|_| !args.inner) {
        Some(ifindex) => twin.run_at(&frame, ifindex)?,
        None => twin.run(&frame)?,
    };
    let would_drop = answer.reason.verdict() == Verdict::Drop;
    let explanation = Explanation {
        source: args.address,
        port: port.to_string(),
        verdict: match (answer.dropped, would_drop) {
            (true, _) => "drop",
            (false, true) => "would-drop",
            (false, false) => "pass",
        },
        reason: answer.reason.name(),
        mode: if would_drop && !answer.dropped { "observe".into() } else { snapshot.mode },
        generation: snapshot.generation,
        rule: match answer.reason {
            Reason::Allowed | Reason::Denied => {
                let effect = match answer.reason {
                    Reason::Denied => Effect::Deny,
                    _ => Effect::Allow,
                };
                let knock = Knock { port, service: service.as_deref(), ifindex, effect };
                rule(&args, &pins, &knock).await?
            }
            _ => None,
        },
        service,
        note: None,
    };
    let text = if args.json {
        serde_json::to_string(&explanation)?
    } else {
        describe(&explanation, answer.reason)
    };
    let done = written(writeln!(io::stdout(), "{text}"))?;
    Ok(if would_drop { ExitCode::from(NO) } else { done })
}

/// Nothing is judged on this interface: the packet passes, whatever the rules say.
fn say_uncovered(
    args: &ExplainArgs,
    port: Port,
    interface: &str,
    snapshot: Snapshot,
) -> anyhow::Result<ExitCode> {
    let explanation = Explanation {
        source: args.address,
        port: port.to_string(),
        verdict: "pass",
        reason: "not-covered",
        mode: snapshot.mode,
        generation: snapshot.generation,
        rule: None,
        service: None,
        note: Some(format!("{interface} is not covered: nothing is judged there")),
    };
    let text = if args.json {
        serde_json::to_string(&explanation)?
    } else {
        format!(
            "{} to {} on {interface}: PASS (not-covered)\n  The guard does not cover {interface}: \
             nothing is judged there, whatever the rules say.",
            explanation.source, explanation.port
        )
    };
    written(writeln!(io::stdout(), "{text}"))
}

/// Where a packet would arrive.
struct Arrival {
    /// Where it is judged.
    hook: Hook,
    start: Start,
    /// The interface, if one is named.
    ifindex: Option<u32>,
    /// The interface, if it is one where nothing is judged.
    uncovered: Option<String>,
}

/// Where frames start on the interface in question, and whether it is covered.
async fn arrival(args: &ExplainArgs, snapshot: &Snapshot) -> anyhow::Result<Arrival> {
    if args.inner {
        let is_alive = snapshot.inner.is_some_and(|link| link.is_alive());
        return Ok(Arrival {
            hook: Hook::Cgroup,
            start: Start::Packet,
            ifindex: Some(INNER_DOOR),
            uncovered: (!is_alive).then(|| format!("the {INNER_NAME}")),
        });
    }
    let Some(name) = &args.interface else {
        let (hook, start) = (Hook::Xdp, Start::Link);
        return Ok(Arrival { hook, start, ifindex: None, uncovered: None });
    };
    let interfaces = doors::list().await?;
    let Some(interface) = interfaces.iter().find(|interface| interface.name == *name) else {
        let names: Vec<&str> = interfaces.iter().map(|one| one.name.as_str()).collect();
        bail!("there is no interface {name}; there are: {}", names.join(", "));
    };
    let link = snapshot.links.iter().find(|link| link.alive && link.ifindex == interface.ifindex);
    Ok(Arrival {
        hook: link.map_or(Hook::Xdp, |link| link.hook),
        start: interface.start().unwrap_or(Start::Link),
        ifindex: Some(interface.ifindex),
        uncovered: link.is_none().then(|| name.clone()),
    })
}

/// The rule behind the answer: with its comment and origin if a daemon runs, and otherwise what
/// the kernel's table has.
async fn rule(
    args: &ExplainArgs,
    pins: &PinDir,
    knock: &Knock<'_>,
) -> anyhow::Result<Option<DecidingRule>> {
    // The verdict is known; a daemon that is busy or that refuses is no reason to keep it back.
    let Ok(Ok(list)) = timeout(PATIENCE, Client::new(&args.socket.socket).rules()).await else {
        let Knock { port, ifindex, .. } = *knock;
        let found = matching_rule(pins, args.address, port, ifindex)?;
        return Ok(found.map(|(prefix, effect)| DecidingRule {
            prefix,
            effect,
            limits: None,
            comment: None,
            expires: None,
            origin: "read from the kernel; no daemon answers that knows where it comes from".into(),
        }));
    };
    let views = list.rules;
    let rules = views
        .iter()
        .map(|view| {
            let RuleView { effect, ref limits, .. } = *view;
            let prefix: Prefix = view.prefix.parse()?;
            let limits = limits.clone().map(Arc::new);
            Ok(Rule {
                prefix,
                effect,
                limits,
                comment: None,
                origin: Origin::Flag.into(),
                expires: None,
            })
        })
        .collect::<anyhow::Result<Vec<Rule>>>()?;
    let place = match &args.interface {
        _ if args.inner => Place::Inside(knock.effect),
        Some(name) => Place::Interface(name),
        None => Place::Unknown,
    };
    let holds = |rule: &Rule| holds(rule, knock.service, place);
    let found = deciding_rule(&rules, args.address, holds);
    let position = found.and_then(|found| rules.element_offset(found));
    Ok(position.and_then(|position| views.into_iter().nth(position)).map(deciding))
}

fn deciding(view: RuleView) -> DecidingRule {
    let RuleView { prefix, effect, limits, comment, origin, expires, .. } = view;
    DecidingRule { prefix, effect, limits, comment, origin, expires }
}

/// A knock, as rules tell them apart.
struct Knock<'a> {
    port: Port,
    /// The service, if there are several.
    service: Option<&'a str>,
    ifindex: Option<u32>,
    /// What became of it.
    effect: Effect,
}

/// Where a rule may hold or not.
#[derive(Clone, Copy)]
enum Place<'a> {
    Interface(&'a str),
    /// An interface about which nothing is known: there, of the rules for some interfaces, only those hold
    /// that close.
    Unknown,
    /// The inner door, which asks all the others: a rule for some of them may be why it answers as it does.
    Inside(Effect),
}

/// Whether a rule holds for a service, at a place.
fn holds(rule: &Rule, service: Option<&str>, place: Place<'_>) -> bool {
    let Some(Limits { service: only, on }) = rule.limits.as_deref() else { return true };
    let is_there = match place {
        _ if on.is_empty() => true,
        Place::Interface(name) => on.iter().any(|pattern| pattern.matches(name)),
        Place::Unknown => rule.effect == Effect::Deny,
        Place::Inside(answer) => rule.effect == answer,
    };
    is_there && only.as_deref().is_none_or(|only| service.is_none_or(|service| service == only))
}

fn describe(found: &Explanation, reason: Reason) -> String {
    let service = found.service.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    let mut text = format!(
        "{} to {}{service}: {} ({})\n  {}",
        found.source,
        found.port,
        found.verdict.to_uppercase(),
        found.reason,
        reason.description()
    );
    if let Some(rule) = &found.rule {
        let limits = rule.limits.as_ref().map_or_else(String::new, |limits| format!(" {limits}"));
        let DecidingRule { prefix, effect, origin, .. } = rule;
        text.push_str(&format!("\n  rule: {effect} {prefix}{limits} ({origin})"));
        if let Some(comment) = &rule.comment {
            text.push_str(&format!(": {}", crate::events::text::Printable(comment)));
        }
        if let Some(end) = rule.expires {
            let rest = span(end.seconds_from(Timestamp::now()));
            text.push_str(&format!("\n  until {end}, for another {rest}"));
        }
    }
    if found.verdict == "would-drop" {
        text.push_str("\n  mode observe: it is delivered all the same");
    }
    text
}
