//! What the kernel offers, and what this process may do with it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde::Serialize;

use super::{
    facts::NotSeen,
    finding::{Finding, Severity},
};
use crate::dataplane;

/// The kernel and this process. `None` is what could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelFacts {
    /// Its release, for people: nothing is concluded from it.
    pub release: String,
    /// Whether it has type information of itself.
    pub btf: bool,
    /// Where the pins are to be.
    pub pin_dir: PathBuf,
    /// Whether that is on a bpffs.
    pub bpffs: Option<bool>,
    /// Capabilities that this process lacks for running the guard.
    pub missing_capabilities: Vec<String>,
    /// The lockdown mode: `none`, `integrity`, `confidentiality`.
    pub lockdown: Option<String>,
    /// Whether BPF is refused to unprivileged users.
    pub unprivileged_bpf_disabled: Option<bool>,
    /// Whether programs are compiled and not interpreted.
    pub jit: Option<bool>,
}

/// Looks at the kernel. `pin_dir` need not exist.
pub(super) fn collect(pin_dir: &Path, not_seen: &mut Vec<NotSeen>) -> KernelFacts {
    let mut read = |path: &str| match fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) => {
            let why = match path {
                LOCKDOWN => format!("{error}; securityfs is not mounted, or there is no lockdown"),
                JIT => format!("{error}; only the first network namespace shows it"),
                _ => error.to_string(),
            };
            not_seen.push(NotSeen::new(path, why));
            None
        }
    };
    let lockdown = read(LOCKDOWN).as_deref().and_then(chosen_word);
    let unprivileged = read("/proc/sys/kernel/unprivileged_bpf_disabled");
    let jit = read(JIT);
    let is_on = |text: String| text.trim() != "0";
    let release = nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".into(), |name| name.release().to_string_lossy().into_owned());
    let nearest = pin_dir.ancestors().find(|path| path.exists());
    let bpffs = nearest.and_then(|path| match statfs(path) {
        Ok(found) => Some(found.filesystem_type() == BPF_FS_MAGIC),
        Err(error) => {
            not_seen.push(NotSeen::new(format!("the file system of {}", path.display()), error));
            None
        }
    });
    KernelFacts {
        release,
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        pin_dir: pin_dir.to_owned(),
        bpffs,
        missing_capabilities: dataplane::missing_privileges(),
        lockdown,
        unprivileged_bpf_disabled: unprivileged.map(is_on),
        jit: jit.map(is_on),
    }
}

const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

/// `none [integrity] confidentiality`: the word in brackets.
fn chosen_word(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

pub(super) fn findings(facts: &KernelFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !facts.missing_capabilities.is_empty() {
        findings.push(Finding::new(
            "capabilities",
            Severity::Lacks,
            format!("this process lacks {}", facts.missing_capabilities.join(", ")),
            "run the guard, and the doctor, as root or with these capabilities",
        ));
    }
    if facts.bpffs == Some(false) {
        findings.push(Finding::new(
            "bpffs",
            Severity::Lacks,
            format!(
                "{} is not on a bpffs, and the filter is pinned there",
                facts.pin_dir.display()
            ),
            "type `mount -t bpf bpf /sys/fs/bpf` (in a container: mount the host's), or name a \
             directory on one with --pin-dir",
        ));
    }
    if facts.lockdown.as_deref() == Some("confidentiality") {
        findings.push(Finding::new(
            "lockdown",
            Severity::Note,
            "the kernel is locked down for confidentiality: BPF programs may not read its memory",
            "the guard does not read it; nothing to do",
        ));
    }
    if facts.jit == Some(false) {
        findings.push(Finding::new(
            "jit",
            Severity::Note,
            "BPF programs are interpreted: every packet takes longer",
            "type `sysctl -w net.core.bpf_jit_enable=1`",
        ));
    }
    if facts.unprivileged_bpf_disabled == Some(false) {
        findings.push(Finding::new(
            "unprivileged-bpf",
            Severity::Note,
            "every user of this host may load BPF programs of some kinds",
            "type `sysctl -w kernel.unprivileged_bpf_disabled=2`",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> KernelFacts {
        KernelFacts {
            release: "6.18".into(),
            btf: true,
            bpffs: Some(true),
            lockdown: Some("none".into()),
            unprivileged_bpf_disabled: Some(true),
            jit: Some(true),
            ..KernelFacts::default()
        }
    }

    fn codes(facts: &KernelFacts) -> Vec<&'static str> {
        findings(facts).iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn a_good_kernel_is_no_finding_and_neither_is_what_could_not_be_read() {
        assert_eq!(codes(&good()), [""; 0]);
        assert_eq!(codes(&KernelFacts::default()), [""; 0]);
    }

    #[test]
    fn everything_that_is_missing_is_one_finding() {
        let lacks = vec!["CAP_BPF".to_owned()];
        assert_eq!(codes(&KernelFacts { missing_capabilities: lacks, ..good() }), ["capabilities"]);
        assert_eq!(codes(&KernelFacts { bpffs: Some(false), ..good() }), ["bpffs"]);
        let lockdown = Some("confidentiality".to_owned());
        assert_eq!(codes(&KernelFacts { lockdown, ..good() }), ["lockdown"]);
        assert_eq!(codes(&KernelFacts { jit: Some(false), ..good() }), ["jit"]);
        let open = KernelFacts { unprivileged_bpf_disabled: Some(false), ..good() };
        assert_eq!(codes(&open), ["unprivileged-bpf"]);
    }

    #[test]
    fn the_lockdown_mode_is_the_word_in_brackets() {
        let text = "none [integrity] confidentiality\n";
        assert_eq!(chosen_word(text).as_deref(), Some("integrity"));
        assert_eq!(chosen_word("none"), None);
    }
}
