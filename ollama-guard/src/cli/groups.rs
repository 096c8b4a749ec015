//! `ollama-guard groups`: the built-in groups, as they are on this host now.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Args;

use super::written;
use crate::{
    config::HostMember,
    doors::{HOST_GROUPS, HostGroups},
    events::text::Printable,
};

/// Arguments of `groups`.
#[derive(Debug, Args)]
pub struct GroupsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints them. None is in a rule unless a list of the configuration names it.
pub(super) async fn run(args: GroupsArgs) -> anyhow::Result<ExitCode> {
    let groups = HostGroups::read().await?;
    let members = |name| groups.members(name).unwrap_or_default();
    if args.json {
        let all: BTreeMap<_, Vec<_>> = HOST_GROUPS
            .iter()
            .map(|(name, _)| (*name, members(name).iter().map(|one| one.net.to_string()).collect()))
            .collect();
        return written(writeln!(io::stdout(), "{}", serde_json::to_string(&all)?));
    }
    let mut text = String::new();
    for (name, what) in HOST_GROUPS {
        let _ = writeln!(text, "{name}: {what}");
        for HostMember { net, interface, .. } in members(name) {
            let _ = writeln!(text, "  {net:<40} {}", Printable(interface));
        }
        if members(name).is_empty() {
            let _ = writeln!(text, "  none");
        }
    }
    text.push_str("none of them is in a rule until a list of the configuration names it");
    written(writeln!(io::stdout(), "{text}"))
}
