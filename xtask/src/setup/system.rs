//! The running system: programs that the demo and the tests call, bpffs, rustup's components.

use std::{fs, process::Command};

use anyhow::Context as _;

use super::{Needs, run_elevated, say};
use crate::{
    command::{Elevation, ask, find_program, run},
    compiler::{KernelCompiler, Origin, nightly},
    workspace::Workspace,
};

/// A program that is called by name.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// Its file name.
    pub name: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Whether the demo needs it too, not only the tests.
    demo: bool,
}

const fn for_tests(name: &'static str, package: &'static str, purpose: &'static str) -> Program {
    Program { name, package, purpose, demo: false }
}

/// Everything that the demo and the tests call. A bare Debian has few of them.
pub const PROGRAMS: [Program; 24] = [
    Program { name: "ip", package: "iproute2", purpose: "network namespaces", demo: true },
    for_tests("nmap", "nmap", "a stranger's port scan"),
    for_tests("curl", "curl", "clients of the guarded port"),
    for_tests("socat", "socat", "a tunnel without Ethernet headers"),
    for_tests("tcpdump", "tcpdump", "captures"),
    for_tests("bpftool", "bpftool", "the kernel's own lists"),
    for_tests("strace", "strace", "errors of drivers that are not here"),
    for_tests("setpriv", "util-linux", "daemons and commands as an ordinary user"),
    for_tests("ps", "procps", "processes"),
    for_tests("nsenter", "util-linux", "commands in a namespace"),
    for_tests("unshare", "util-linux", "namespaces of their own"),
    for_tests("nft", "nftables", "rules for the doctor to find"),
    for_tests("iptables-nft", "iptables", "rules of iptables in nftables"),
    for_tests("iptables-legacy", "iptables", "rules of the older iptables"),
    // A stranger's toolbox, by authors who know nothing of us: 5 MB in all.
    for_tests("hping3", "hping3", "a stranger's odd segments and fragments"),
    for_tests("tcp6", "ipv6toolkit", "a stranger's IPv6 segments and fragments"),
    for_tests("atk6-firewall6", "thc-ipv6", "a stranger's ways past IPv6 filters"),
    for_tests("mausezahn", "netsniff-ng", "a stranger's VLAN stacks"),
    for_tests("scapy3", "python3-scapy", "a stranger's packets of any form"),
    for_tests("mount", "mount", "bpffs of their own"),
    for_tests("dnsmasq", "dnsmasq-base", "a name server with answers of every kind"),
    for_tests("ethtool", "ethtool", "the settings of interfaces"),
    for_tests("ipset", "ipset", "what the benchmark compares with"),
    for_tests("xdp-filter", "xdp-tools", "another of these"),
];

/// What booting other kernels needs, beside the tools of the tests that go into the guests.
const FOR_KERNELS: [Program; 10] = [
    for_tests("ip", "iproute2", "network namespaces in a guest"),
    for_tests("tc", "iproute2", "filters in a guest"),
    for_tests("bpftool", "bpftool", "a guest kernel's own lists"),
    for_tests("nsenter", "util-linux", "commands in a guest's namespace"),
    for_tests("qemu-system-x86_64", "qemu-system-x86", "booting other kernels"),
    for_tests("busybox", "busybox-static", "a guest's shell"),
    for_tests("strip", "binutils", "smaller programs for a guest"),
    for_tests("ldd", "libc-bin", "the libraries of a guest's programs"),
    for_tests("xz", "xz-utils", "modules of kernels"),
    for_tests("zstd", "zstd", "modules of kernels"),
];

const BPFFS: &str = "/sys/fs/bpf";
/// Mounts the file system that pinned kernel objects live in, closed to all but root as systemd
/// does it.
pub const MOUNT_BPFFS: [&str; 7] = ["mount", "-t", "bpf", "-o", "mode=0700", "bpf", BPFFS];

/// The programs for `needs`.
pub fn needed(needs: Needs) -> impl Iterator<Item = &'static Program> {
    let usual = PROGRAMS.iter().filter(move |program| needs.tests || (needs.demo && program.demo));
    usual.chain(FOR_KERNELS.iter().filter(move |_| needs.kernels))
}

/// The programs for `needs` that are not there.
pub fn missing_programs(needs: Needs) -> Vec<&'static Program> {
    needed(needs).filter(|program| find_program(program.name).is_none()).collect()
}

/// Whether pins are possible where the guard puts them by default.
pub fn bpffs_is_mounted() -> bool {
    fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| lists_bpffs(&mounts))
}

fn lists_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

/// Mounts bpffs, which a system without systemd does not do by itself.
pub fn mount_bpffs(elevation: Elevation) -> anyhow::Result<()> {
    say("mount bpffs at /sys/fs/bpf: the guard's kernel objects are pinned there (at once)");
    run_elevated(elevation, &MOUNT_BPFFS, &[]).context(
        "bpffs could not be mounted; a container needs CAP_SYS_ADMIN for that, or the host's \
         /sys/fs/bpf as a volume",
    )
}

/// Adds rustfmt and clippy where rustup was told to install a minimal profile.
pub fn complete_rustup(workspace: &Workspace, compiler: &KernelCompiler) -> anyhow::Result<()> {
    let lacks = |cargo: &mut Command, verb: &str| ask(cargo.args([verb, "--version"])).is_none();
    let mut missing = Vec::new();
    for (verb, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if lacks(&mut workspace.bare_cargo(), verb) {
            missing.push(component);
        }
    }
    add_components(&missing, &[])?;
    if compiler.origin == Origin::Nightly && lacks(&mut nightly("cargo"), "clippy") {
        add_components(&["clippy"], &["--toolchain", "nightly"])?;
    }
    Ok(())
}

fn add_components(components: &[&str], toolchain: &[&str]) -> anyhow::Result<()> {
    if components.is_empty() {
        return Ok(());
    }
    let names = components.join(" ");
    say(&format!("rustup component add {names}: format and lint the sources (about 10 s)"));
    let mut rustup = Command::new("rustup");
    run(rustup.args(["component", "add"]).args(components).args(toolchain)).with_context(|| {
        format!("{names} could not be added; install what is missing beside the cargo that you use")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpffs_counts_only_at_its_place() {
        let sysfs = "sysfs /sys sysfs rw,nosuid 0 0\n";
        assert!(!lists_bpffs(sysfs));
        assert!(!lists_bpffs(&format!("{sysfs}bpf /elsewhere bpf rw 0 0\n")));
        assert!(lists_bpffs(&format!("{sysfs}none /sys/fs/bpf bpf rw,mode=700 0 0\n")));
    }
}
