//! podman 5 out of Debian's packages, with everything that it keeps in `target/`.
//!
//! Nothing is installed: a machine on which this project is tested does not get another container engine. It is that
//! of trixie on every Debian, with the libraries that it was built for: an older one can't play a DaemonSet, and its
//! profile for seccomp does not know `CAP_BPF`. A script, `target/tools/podman/run`, calls it with the right
//! settings; the tests call it, too.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use crate::{
    build::write_if_different,
    command,
    mirror::Mirror,
    setup::{say, tools::ensure_package},
    suite::Suite,
    workspace::Workspace,
};

/// Whose packages they are.
const SUITE: &str = "trixie";
/// What builds the image and runs it, and every library that these take.
const PACKAGES: [&str; 33] = [
    "catatonit",
    "conmon",
    "golang-github-containers-common",
    "golang-github-containers-image",
    "libacl1",
    "libassuan9",
    "libatomic1",
    "libattr1",
    "libaudit1",
    "libbsd0",
    "libbz2-1.0",
    "libc6",
    "libcap-ng0",
    "libcap2",
    "libcrypt1",
    "libgcc-s1",
    "libglib2.0-0t64",
    "libgpg-error0",
    "libgpgme11t64",
    "libmd0",
    "libpam0g",
    "libpcre2-8-0",
    "libseccomp2",
    "libselinux1",
    "libsemanage2",
    "libsepol2",
    "libsqlite3-0",
    "libsubid5",
    "libsystemd0",
    "netavark",
    "podman",
    "runc",
    "zlib1g",
];
/// Programs that find their libraries by themselves afterwards, whoever calls them.
const PROGRAMS: [&str; 4] =
    ["usr/bin/podman", "usr/bin/conmon", "usr/lib/podman/netavark", "usr/sbin/runc"];

/// Unpacks it if need be, and returns the script.
pub fn ensure(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let root = workspace.target().join("tools/podman");
    let script = root.join("run");
    if !is_right(&script) {
        unpack(workspace, &root)?;
    }
    // Where it looks for the policy if it is told of none: that of the package.
    let home = root.join("home/.config/containers");
    fs::create_dir_all(&home)?;
    write_if_different(
        &home.join("policy.json"),
        &fs::read(root.join("etc/containers/policy.json"))?,
    )?;
    write_if_different(&root.join("containers.conf"), settings(&root).as_bytes())?;
    write_if_different(&script, called(&root).as_bytes())?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    ensure!(
        is_right(&script),
        "podman is unpacked, but `{} --version` does not start it: remove {} and call me again",
        script.display(),
        root.display()
    );
    Ok(script)
}

/// Whether it starts. It names its libraries by their whole path, so one that was moved does not.
fn is_right(script: &Path) -> bool {
    let answers = command::ask(Command::new(script).arg("--version"))
        .is_some_and(|answer| answer.starts_with("podman version 5."));
    answers && PROGRAMS.iter().all(|program| script.with_file_name(program).is_file())
}

fn unpack(workspace: &Workspace, root: &Path) -> anyhow::Result<()> {
    ensure_package(
        "patchelf",
        "patchelf",
        "has podman use the libraries that it is unpacked with",
    )?;
    say(&format!(
        "apt-get download podman and its libraries of {SUITE}, unpacked into target/tools/podman: builds the image \
         and runs it in the tests (45 MB)"
    ));
    if root.exists() {
        fs::remove_dir_all(root).with_context(|| format!("removing {}", root.display()))?;
    }
    let place = workspace.target().join("tools/podman.apt");
    let suite = Suite::at(&place);
    suite.update(&Mirror::of_this_machine()?, &["deb"], SUITE)?;
    suite.unpack(&PACKAGES.map(str::to_owned), root)?;
    fs::remove_dir_all(&place)?;
    let libraries = only(&root.join("usr/lib"), "-linux-gnu")?;
    let loader = fs::read_dir(root.join("usr/lib64"))
        .or_else(|_| fs::read_dir(&libraries))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux-"))
        })
        .context("libc6 came without a loader")?;
    for program in PROGRAMS {
        let mut patch = Command::new("patchelf");
        // Of libraries' libraries too, which a newer kind of the same entry is not.
        patch.arg("--set-interpreter").arg(&loader).arg("--force-rpath");
        patch.arg("--set-rpath").arg(&libraries).arg(root.join(program));
        command::run(&mut patch)?;
    }
    Ok(())
}

/// The one entry of a directory whose name ends so.
fn only(directory: &Path, end: &str) -> anyhow::Result<PathBuf> {
    let mut entries = fs::read_dir(directory)?.filter_map(Result::ok).map(|entry| entry.path());
    let found = entries.find(|path| path.to_string_lossy().ends_with(end));
    found.with_context(|| format!("nothing in {} ends with {end}", directory.display()))
}

/// Settings for machines that are containers themselves: limits that can be set without CAP_SYS_RESOURCE.
fn settings(root: &Path) -> String {
    let root = root.display();
    format!(
        r#"[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
pids_limit = 0
log_driver = "k8s-file"
seccomp_profile = "{root}/usr/share/containers/seccomp.json"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
conmon_path = ["{root}/usr/bin/conmon"]
init_path = "{root}/usr/bin/catatonit"
helper_binaries_dir = ["{root}/usr/lib/podman"]

[engine.runtimes]
runc = ["{root}/usr/sbin/runc"]

[network]
network_config_dir = "{root}/home/networks"
"#
    )
}

/// The script. Whoever calls it says where images and containers are kept.
fn called(root: &Path) -> String {
    format!(
        r#"#!/bin/sh
# podman of the packages that are unpacked here: run --root DIR --runroot DIR ...
here='{}'
export CONTAINERS_CONF="$here/containers.conf" HOME="$here/home"
# The machines that this runs on may have cgroups of both versions.
export PODMAN_IGNORE_CGROUPSV1_WARNING=1
# Where it looks for what waits in a pod's first container.
export PATH="$here/usr/bin:$here/usr/sbin:$PATH"
exec "$here/usr/bin/podman" --storage-driver vfs "$@"
"#,
        root.display()
    )
}
