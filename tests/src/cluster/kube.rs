//! kubectl and helm, as an operator calls them.

use std::{io::Write as _, net::IpAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Props;
use crate::{
    bed::{Finished, Namespace, layout_in, run, until},
    deployment::{NAME, deploy},
};

const LIMIT: Duration = Duration::from_secs(60);
/// A pod's start on a machine that is busy.
pub(super) const ROLLOUT: Duration = Duration::from_secs(240);

/// An operator's workstation.
#[derive(Debug)]
pub(super) struct Kube<'bed> {
    namespace: &'bed Namespace,
    tools: PathBuf,
    work: PathBuf,
}

impl<'bed> Kube<'bed> {
    /// One on the node's network.
    pub(super) fn new(namespace: &'bed Namespace, props: &Props) -> Self {
        Self { namespace, tools: props.tools.clone(), work: props.work.clone() }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.namespace.command(self.tools.join(program));
        command.env("KUBECONFIG", self.work.join("kubeconfig"));
        // Where they keep what they have learnt.
        command.env("HOME", self.work.join("home"));
        command
    }

    /// Runs kubectl, which may fail.
    pub(super) fn kubectl(&self, arguments: &[&str]) -> Result<Finished> {
        run(self.command("kubectl").args(arguments), ROLLOUT)
    }

    /// Runs kubectl, which has to succeed. Returns what it printed.
    pub(super) fn ask(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.kubectl(arguments)?.expect_success()?.to_owned())
    }

    /// Runs kubectl on the guard's objects.
    pub(super) fn guard(&self, arguments: &[&str]) -> Result<String> {
        self.ask(&[&["-n", NAME], arguments].concat())
    }

    /// Runs the guard's program in the guard's pod. A bad exit code is no error here.
    pub(super) fn in_guard(&self, arguments: &[&str]) -> Result<Finished> {
        let exec = ["-n", NAME, "exec", "daemonset/ollama-guard", "--", "/usr/bin/ollama-guard"];
        self.kubectl(&[&exec, arguments].concat())
    }

    /// The layout of the maps of the guard that is in the pod.
    pub(super) fn layout(&self) -> Result<u32> {
        let told = self.in_guard(&["--version", "--verbose"])?;
        let told = told.expect_success()?;
        layout_in(told).with_context(|| format!("no layout in {told}"))
    }

    /// Makes objects.
    pub(super) fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        self.create(&list.to_string())
    }

    /// Runs helm on the chart with these values, which may be refused.
    pub(super) fn helm(&self, verb: &[&str], values: Option<&Value>) -> Result<Finished> {
        self.helm_of(NAME, verb, values)
    }

    fn helm_of(&self, release: &str, verb: &[&str], values: Option<&Value>) -> Result<Finished> {
        let mut file = tempfile::NamedTempFile::new()?;
        let mut helm = self.command("helm");
        helm.args(["--namespace", NAME]).args(verb).arg(release);
        if let Some(values) = values {
            file.write_all(values.to_string().as_bytes())?;
            helm.arg(deploy().join("helm/ollama-guard")).arg("--values").arg(file.path());
        }
        run(&mut helm, LIMIT)
    }

    /// What helm makes of these values for a second release.
    pub(super) fn rendered(&self, release: &str, values: &Value) -> Result<String> {
        Ok(self.helm_of(release, &["template"], Some(values))?.expect_success()?.to_owned())
    }

    /// Makes what was rendered.
    pub(super) fn create(&self, rendered: &str) -> Result<()> {
        self.with_file("create", rendered)
    }

    /// Removes what was rendered.
    pub(super) fn delete(&self, rendered: &str) -> Result<()> {
        self.with_file("delete", rendered)
    }

    fn with_file(&self, verb: &str, text: &str) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(text.as_bytes())?;
        let path = file.path().display().to_string();
        self.ask(&[verb, "--filename", &path]).map(drop)
    }

    /// Waits until the guard's pods are all of the last revision, and Ready.
    pub(super) fn rollout(&self) -> Result<()> {
        self.guard(&["rollout", "status", "daemonset/ollama-guard", "--timeout=200s"]).map(drop)
    }

    /// Waits until a pod is Ready.
    pub(super) fn until_ready(&self, pod: &str) -> Result<()> {
        let waited = self.ask(&["wait", "--for=condition=Ready", "--timeout=200s", pod]);
        waited.map(drop).with_context(|| {
            self.ask(&["describe", pod]).unwrap_or_else(|error| format!("{error:#}"))
        })
    }

    /// The addresses of a pod: all that it has.
    pub(super) fn addresses(&self, pod: &str) -> Result<Vec<IpAddr>> {
        let told: Value = serde_json::from_str(&self.ask(&["get", pod, "-o", "json"])?)?;
        let all = told["status"]["podIPs"].as_array().cloned().unwrap_or_default();
        let all = all.iter().filter_map(|one| one["ip"].as_str()?.parse().ok());
        Ok(all.collect())
    }

    /// Waits until a word of kubectl is so.
    pub(super) fn until(
        &self,
        what: &str,
        arguments: &[&str],
        is_so: impl Fn(&str) -> bool,
    ) -> Result<()> {
        until(what, ROLLOUT, || self.ask(arguments).is_ok_and(|said| is_so(&said)))
    }
}
