//! Asking the packet filters' own programs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{io::AsyncReadExt as _, process::Command, time::timeout};

use super::{iptables, nft, ruleset::Ruleset};
use crate::doctor::facts::NotSeen;

/// Where the programs are looked for: this runs as root, and `PATH` is the caller's.
const DIRECTORIES: [&str; 6] =
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/run/current-system/sw/bin"];
/// How long a listing may take, and how long it may be.
const PATIENCE: Duration = Duration::from_secs(10);
const MOST_BYTES: u64 = 256 << 20;

/// The rules of the calling process's network namespace.
pub(super) async fn read(not_seen: &mut Vec<NotSeen>) -> Ruleset {
    let mut ruleset = Ruleset::default();
    let needs_iptables = nftables(&mut ruleset, not_seen).await;
    for family in ["iptables", "ip6tables"] {
        // Rules of iptables that are kept by nftables.
        let modern = find(&format!("{family}-nft-save"))
            .or_else(|| find(&format!("{family}-save")).filter(|path| is_modern(path)));
        match modern {
            Some(program) => save(&program, family, &mut ruleset, not_seen).await,
            None if needs_iptables => not_seen.push(NotSeen::new(
                format!("rules that {family} keeps in nftables"),
                format!("{family}-save is not installed"),
            )),
            None => {}
        }
        old_tables(family, &mut ruleset, not_seen).await;
    }
    let services = fs::read_to_string("/proc/net/ip_vs").unwrap_or_default();
    if services.lines().any(|line| line.starts_with("TCP")) {
        not_seen.push(NotSeen::new(
            "services of IPVS",
            "they are not followed: see `ipvsadm -Ln`, and guard each port that leads to Ollama",
        ));
    }
    ruleset
}

/// Whether there are rules in nftables that only iptables can print, or may be.
async fn nftables(ruleset: &mut Ruleset, not_seen: &mut Vec<NotSeen>) -> bool {
    const WHAT: &str = "rules of nftables";
    let Some(program) = find("nft") else {
        not_seen.push(NotSeen::new(WHAT, "nft is not installed (package nftables)"));
        return true;
    };
    let listing = match run(&program, &["-j", "list", "ruleset"]).await {
        Ok(text) => nft::parse(&text).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match listing {
        Ok(listing) => {
            ruleset.add(listing.ruleset);
            listing.has_iptables_rules
        }
        Err(error) => {
            not_seen.push(NotSeen::new(WHAT, format!("`nft -j list ruleset`: {error}")));
            true
        }
    }
}

/// The older kind, which the kernel keeps apart. Its program loads modules that it does not find, so
/// it is asked only if there are tables.
async fn old_tables(family: &str, ruleset: &mut Ruleset, not_seen: &mut Vec<NotSeen>) {
    let names = if family == "iptables" { "ip_tables_names" } else { "ip6_tables_names" };
    let what = format!("rules of {family} (legacy)");
    match fs::read_to_string(Path::new("/proc/net").join(names)) {
        // The kernel does not have the older kind, or nobody has used it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => not_seen.push(NotSeen::new(what, error)),
        Ok(tables) if tables.trim().is_empty() => {}
        Ok(_) => {
            let legacy = find(&format!("{family}-legacy-save"))
                .or_else(|| find(&format!("{family}-save")).filter(|path| !is_modern(path)));
            match legacy {
                Some(program) => {
                    save(&program, &format!("{family}-legacy"), ruleset, not_seen).await;
                }
                None => not_seen
                    .push(NotSeen::new(what, format!("{family}-legacy-save is not installed"))),
            }
        }
    }
}

async fn save(program: &Path, name: &str, ruleset: &mut Ruleset, not_seen: &mut Vec<NotSeen>) {
    match run(program, &[]).await {
        Ok(text) => ruleset.add(iptables::parse(name, &text)),
        Err(error) => {
            not_seen.push(NotSeen::new(
                format!("rules of {name}"),
                format!("`{}`: {error}", program.display()),
            ));
        }
    }
}

/// Whether `iptables-save` is the kind that works on nftables: the links of distributions lead to a
/// program whose name says so.
fn is_modern(path: &Path) -> bool {
    let target = fs::canonicalize(path).unwrap_or_default();
    target.file_name().is_some_and(|name| name.to_string_lossy().contains("nft"))
}

fn find(name: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

async fn run(program: &Path, arguments: &[&str]) -> io::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(mut output), Some(mut errors)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("no pipe"));
    };
    let work = async {
        let (mut text, mut complaint) = (String::new(), String::new());
        let mut short = (&mut errors).take(4096);
        let mut bounded = (&mut output).take(MOST_BYTES);
        tokio::try_join!(bounded.read_to_string(&mut text), short.read_to_string(&mut complaint))?;
        if text.len() as u64 == MOST_BYTES {
            return Err(io::Error::other("the listing is too long"));
        }
        let status = child.wait().await?;
        if status.success() {
            return Ok(text);
        }
        Err(io::Error::other(complaint.lines().next().unwrap_or("it failed").trim().to_owned()))
    };
    timeout(PATIENCE, work)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it took too long"))?
}
