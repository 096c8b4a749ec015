//! What has to be in the package, with which rights, and what must not.

use std::{path::Path, process::Command};

use anyhow::{Context as _, ensure};

use crate::command;

/// Files, with their rights as `dpkg-deb` shows them.
const FILES: [(&str, &str); 19] = [
    ("-rwxr-xr-x", "./usr/bin/ollama-guard"),
    ("-rw-r--r--", "./etc/ollama-guard/config.toml"),
    ("-rw-r--r--", "./usr/lib/systemd/system/ollama-guard.service"),
    ("-rw-r--r--", "./usr/lib/systemd/system/ollama-guard-pins.service"),
    ("-rw-r--r--", "./usr/lib/sysusers.d/ollama-guard.conf"),
    ("-rw-r--r--", "./usr/share/ollama-guard/ollama.service.d/ollama-guard.conf"),
    ("-rw-r--r--", "./usr/share/bash-completion/completions/ollama-guard"),
    ("-rw-r--r--", "./usr/share/zsh/vendor-completions/_ollama-guard"),
    ("-rw-r--r--", "./usr/share/fish/vendor_completions.d/ollama-guard.fish"),
    ("-rw-r--r--", "./usr/share/man/man8/ollama-guard.8.gz"),
    ("-rw-r--r--", "./usr/share/man/man8/ollama-guard-run.8.gz"),
    ("-rw-r--r--", "./usr/share/man/man8/ollama-guard-allow-add.8.gz"),
    ("-rw-r--r--", "./usr/share/doc/ollama-guard/copyright"),
    ("-rw-r--r--", "./usr/share/doc/ollama-guard/README.md"),
    ("-rw-r--r--", "./usr/share/doc/ollama-guard/install.md"),
    ("-rw-r--r--", "./usr/share/doc/ollama-guard/examples/config.toml"),
    ("-rw-r--r--", "./usr/share/doc/ollama-guard/examples/prometheus/ollama-guard.rules.yml"),
    ("-rw-r--r--", "./usr/share/doc/ollama-guard/examples/prometheus/scrape.yml"),
    ("-rw-r--r--", "./usr/share/doc/ollama-guard/examples/grafana/dashboard.json"),
];

/// Looks at the list of files, the configuration files, the scripts, and the packaged configuration.
pub fn check(package: &Path) -> anyhow::Result<()> {
    let dpkg = |arguments: &[&str]| {
        let (first, rest) = arguments.split_first().context("an option")?;
        command::output(Command::new("dpkg-deb").arg(first).arg(package).args(rest))
    };
    let list = dpkg(&["--contents"])?;
    let files: Vec<Vec<&str>> =
        list.lines().map(|line| line.split_whitespace().collect()).collect();
    for (mode, path) in FILES {
        let found = files.iter().find(|words| words.last() == Some(&path));
        let found = found.with_context(|| format!("{path} is not in the package:\n{list}"))?;
        ensure!(found[0] == mode, "{path} has {} and not {mode}", found[0]);
    }
    for words in &files {
        ensure!(["root/root", "0/0"].contains(&words[1]), "not root's: {words:?}");
        let mode = words[0].as_bytes();
        ensure!(mode[5] != b'w' && mode[8] != b'w' && !words[0].contains('s'), "{words:?}");
    }
    let conffiles = dpkg(&["--info", "conffiles"])?;
    ensure!(conffiles.trim() == "/etc/ollama-guard/config.toml", "{conffiles}");
    // Installing it must lock nobody out.
    let config = dpkg_file(package, "./etc/ollama-guard/config.toml")?;
    ensure!(config.lines().any(|line| line == "mode = \"observe\""), "{config}");
    for script in ["postinst", "prerm", "postrm"] {
        let text = dpkg(&["--info", script])?;
        let mut shell = Command::new("sh");
        command::run(shell.args(["-n", "-c", &text])).context(script)?;
    }
    Ok(())
}

fn dpkg_file(package: &Path, path: &str) -> anyhow::Result<String> {
    // The archive within, and one file of it.
    let line = format!("dpkg-deb --fsys-tarfile \"$1\" | tar -xO {path}");
    command::output(Command::new("sh").args(["-c", &line, "sh"]).arg(package))
}
