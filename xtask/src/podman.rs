//! podman out of Debian's packages, with everything that it keeps in `target/`.
//!
//! Nothing is installed: a machine on which this project is tested does not get another container engine. A
//! script, `target/tools/podman/run`, calls it with the right libraries and settings; the tests call it, too.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::{
    build::write_if_different,
    command,
    setup::unpacked::{self, PODMAN},
    workspace::Workspace,
};

/// Unpacks it if need be, and returns the script.
pub fn ensure(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let root = unpacked::ensure(workspace, &PODMAN)?;
    let script = root.join("run");
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
    command::run_quietly(Command::new(&script).arg("--version"))
        .context("podman is unpacked, but does not start: `ldd` says which library it lacks")?;
    Ok(script)
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
libraries=$(echo "$here"/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH="$libraries" CONTAINERS_CONF="$here/containers.conf" HOME="$here/home"
# Where it looks for what waits in a pod's first container.
export PATH="$here/usr/bin:$here/usr/sbin:$PATH"
exec "$here/usr/bin/podman" --storage-driver vfs "$@"
"#,
        root.display()
    )
}
