//! The settings of a node's programs, and the commands that they look for.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use anyhow::Result;

use super::node::NAME;

/// The networks of its pods.
pub(super) const PODS4: &str = "10.244.0.0/24";
pub(super) const PODS6: &str = "fd00:244::/64";

/// A directory of commands for the programs that look for them by name.
pub(super) fn commands(programs: &Path, work: &Path) -> Result<()> {
    // The old iptables: of the new one's rules kube-proxy of that time makes only some.
    for name in ["", "-save", "-restore"] {
        for family in ["iptables", "ip6tables"] {
            let link = work.join("bin").join(format!("{family}{name}"));
            symlink("/usr/sbin/xtables-legacy-multi", link)?;
        }
    }
    let node = programs.join("node");
    let script = work.join("bin/conntrack");
    let libraries = node.join("usr/lib").join(format!("{}-linux-gnu", env::consts::ARCH));
    let text = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH={} exec {} \"$@\"\n",
        libraries.display(),
        node.join("usr/sbin/conntrack").display()
    );
    fs::write(&script, text)?;
    Ok(fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?)
}

/// Where the node's programs look for commands.
pub(super) fn path(programs: &Path, work: &Path) -> Result<OsString> {
    let node = programs.join("node");
    let own = [work.join("bin"), node.join("usr/bin"), node.join("usr/sbin")];
    let usual = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(own.into_iter().chain(env::split_paths(&usual)))?)
}

/// Writes what containerd, its network, kubelet and kube-proxy are told.
pub(super) fn write(programs: &Path, work: &Path, kubeconfig: &Path, cgroup: &str) -> Result<()> {
    let (node, cni) = (programs.join("node"), work.join("cni"));
    let (plugins, cni_shown) = (node.join("usr/lib/cni"), cni.display());
    let containerd = format!(
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"localhost/pause:test\"\n\
         restrict_oom_score_adj = true\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{}\"\n\
         conf_dir = \"{cni_shown}\"\n",
        plugins.display()
    );
    fs::write(work.join("containerd.toml"), containerd)?;
    let network = serde_json::json!({
        "cniVersion": "0.4.0", "name": "pods", "plugins": [
            { "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": {
                "type": "host-local", "ranges": [[{ "subnet": PODS4 }], [{ "subnet": PODS6 }]],
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    fs::write(cni.join("10-pods.conflist"), network.to_string())?;
    let kubelet = serde_json::json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "cgroupDriver": "cgroupfs", "cgroupRoot": cgroup, "enforceNodeAllocatable": [],
        "failSwapOn": false, "resolvConf": "/dev/null",
        "evictionHard": { "memory.available": "1Mi" },
        "featureGates": { "IPv6DualStack": true, "LocalStorageCapacityIsolation": false },
    });
    fs::write(work.join("kubelet.yaml"), kubelet.to_string())?;
    let proxy = serde_json::json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "iptables", "clusterCIDR": format!("{PODS4},{PODS6}"), "hostnameOverride": NAME,
        "clientConnection": { "kubeconfig": kubeconfig }, "featureGates": { "IPv6DualStack": true },
        // Those of the machine, which are not this namespace's to set.
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
    });
    Ok(fs::write(work.join("kube-proxy.yaml"), proxy.to_string())?)
}
