//! The control plane: etcd, API server, controllers and scheduler, in the node's network.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Props, kube::Kube, node::logged};
use crate::{
    bed::{Namespace, Process, run, start, until},
    policy::SERVER4,
};

const READY: Duration = Duration::from_secs(120);
/// Where it answers.
const PORT: u16 = 6443;
/// Networks of pods of all nodes, and of services.
const CLUSTER: &str = "10.244.0.0/16,fd00:244::/56";
const SERVICES: &str = "10.96.0.0/16,fd00:96::/112";

/// A running control plane. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Plane<'bed> {
    namespace: &'bed Namespace,
    programs: PathBuf,
    work: PathBuf,
    server: Option<Process>,
    _others: Vec<Process>,
}

impl<'bed> Plane<'bed> {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub(super) fn start(namespace: &'bed Namespace, props: &Props) -> Result<Self> {
        let work = props.work.join("plane");
        fs::create_dir_all(&work)?;
        fs::write(work.join("tokens.csv"), "secret,admin,admin,system:masters\n")?;
        let mut key = Command::new("openssl");
        key.args(["genrsa", "-out"]).arg(work.join("accounts.key")).arg("2048");
        run(&mut key, READY)?.expect_success()?;
        let kubeconfig = props.work.join("kubeconfig");
        fs::write(&kubeconfig, kubeconfig_text())?;
        let mut plane = Self {
            namespace,
            programs: props.programs.clone(),
            work,
            server: None,
            _others: Vec::new(),
        };
        let etcd = plane.started("node/usr/bin/etcd", |etcd, work| {
            etcd.arg("--data-dir").arg(work.join("etcd")).arg("--unsafe-no-fsync");
        })?;
        plane._others.push(etcd);
        plane.start_server()?;
        let kube = Kube::new(namespace, props);
        until("the API server", READY, || plane.answers(&kube)).with_context(|| plane.log())?;
        let controllers = plane.started("bin/kube-controller-manager", |command, work| {
            command.arg(format!("--kubeconfig={}", kubeconfig.display()));
            let key = work.join("accounts.key");
            command.arg(format!("--service-account-private-key-file={}", key.display()));
            command.arg(format!("--cluster-cidr={CLUSTER}"));
            command.arg(format!("--service-cluster-ip-range={SERVICES}"));
            command.args(["--allocate-node-cidrs=true", "--node-cidr-mask-size-ipv6=64"]);
            command.args(["--feature-gates=IPv6DualStack=true", "--leader-elect=false"]);
            command.args(["--port=0", "--secure-port=0"]);
            // As the servers' probes: a kubelet that is late is not gone.
            command.arg("--node-monitor-grace-period=120s");
        })?;
        let scheduler = plane.started("bin/kube-scheduler", |command, work| {
            command.arg(format!("--kubeconfig={}", kubeconfig.display()));
            command.args(["--leader-elect=false", "--port=0"]);
            command.arg(format!("--cert-dir={}", work.join("scheduler").display()));
        })?;
        plane._others.extend([controllers, scheduler]);
        Ok(plane)
    }

    /// Starts the API server, and does not wait for it.
    pub(super) fn start_server(&mut self) -> Result<()> {
        let server = self.started("bin/kube-apiserver", |command, work| {
            let key = work.join("accounts.key").display().to_string();
            command.args(["--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0"]);
            command.arg(format!("--advertise-address={SERVER4}"));
            command.arg(format!("--secure-port={PORT}"));
            // It makes its own certificate there.
            command.arg(format!("--cert-dir={}", work.join("server").display()));
            command.arg(format!("--token-auth-file={}", work.join("tokens.csv").display()));
            command.arg("--authorization-mode=Node,RBAC");
            command.arg(format!("--service-account-key-file={key}"));
            command.arg(format!("--service-account-signing-key-file={key}"));
            command.arg("--service-account-issuer=https://kubernetes.default.svc");
            command.arg(format!("--service-cluster-ip-range={SERVICES}"));
            command.args(["--feature-gates=IPv6DualStack=true", "--allow-privileged=false"]);
            command.arg("--kubelet-preferred-address-types=InternalIP");
        })?;
        self.server = Some(server);
        Ok(())
    }

    /// Kills the API server.
    pub(super) fn kill_server(&mut self) -> Result<()> {
        self.server.take().context("there is no API server")?.kill()
    }

    /// Waits until the API server answers. Returns how long that took.
    pub(super) fn until_answering(&self, kube: &Kube<'_>) -> Result<Duration> {
        let begin = Instant::now();
        until("the API server", READY, || self.answers(kube)).with_context(|| self.log())?;
        Ok(begin.elapsed())
    }

    fn answers(&self, kube: &Kube<'_>) -> bool {
        kube.ask(&["get", "--raw", "/readyz"]).is_ok_and(|said| said == "ok")
    }

    fn started(&self, program: &str, set: impl FnOnce(&mut Command, &Path)) -> Result<Process> {
        let program = self.programs.join(program);
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = self.namespace.command(&program);
        logged(&mut command, &self.work.join(format!("{name}.log")))?;
        set(&mut command, &self.work);
        start(&mut command)
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.work.join("kube-apiserver.log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

fn kubeconfig_text() -> String {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bed",
        "clusters": [{ "name": "bed", "cluster": {
            "server": format!("https://{SERVER4}:{PORT}"), "insecure-skip-tls-verify": true,
        } }],
        "users": [{ "name": "admin", "user": { "token": "secret" } }],
        "contexts": [{ "name": "bed", "context": { "cluster": "bed", "user": "admin" } }],
    })
    .to_string()
}
