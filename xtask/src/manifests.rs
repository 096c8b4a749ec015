//! `cargo xtask manifests`: the parts of the manifests that are made of other files.
//!
//! The alerts are written once, in `deploy/prometheus`. The chart follows a link to them; kustomize takes nothing
//! from outside its own directory, so that its object is written out here, and a test says when it is old.

use anyhow::Context as _;
use std::fs;

use crate::{build::write_if_different, dist::VERSION, workspace::Workspace};

const ALERTS: &str = "ollama-guard/deploy/prometheus/ollama-guard.rules.yml";
const OBJECT: &str = "ollama-guard/deploy/kubernetes/overlays/monitoring/prometheusrule.yaml";

/// Writes them.
pub fn manifests(workspace: &Workspace) -> anyhow::Result<()> {
    let path = workspace.root().join(ALERTS);
    let alerts = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    write_if_different(&workspace.root().join(OBJECT), prometheus_rule(&alerts)?.as_bytes())?;
    println!("manifests: {OBJECT}");
    Ok(())
}

/// The alerts as an object of the Prometheus operator's.
fn prometheus_rule(alerts: &str) -> anyhow::Result<String> {
    let (_, groups) = alerts.split_once("\ngroups:").context("the alerts have no groups")?;
    let mut text = format!(
        r#"# Written by `cargo xtask manifests` out of deploy/prometheus/ollama-guard.rules.yml: change that.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: ollama-guard
  labels:
    app.kubernetes.io/name: ollama-guard
    app.kubernetes.io/instance: ollama-guard
    app.kubernetes.io/version: "{VERSION}"
spec:
"#
    );
    for line in format!("groups:{groups}").lines() {
        let indent = if line.trim().is_empty() { "" } else { "  " };
        text.push_str(&format!("{indent}{line}\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alerts_of_the_cluster_are_those_of_hosts() {
        let workspace = Workspace::locate().unwrap();
        let read = |path: &str| fs::read_to_string(workspace.root().join(path)).unwrap();
        assert!(
            read(OBJECT) == prometheus_rule(&read(ALERTS)).unwrap(),
            "{OBJECT} is not what {ALERTS} says: call `cargo xtask manifests`"
        );
    }
}
