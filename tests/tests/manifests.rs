//! The manifests and the chart: no more privilege than the code needs, every mount used, every word known, and
//! kustomize and Helm saying the same.
//!
//! Long because what is asked of every object stands in one place.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Container, HTTPGetAction, Namespace, PodSpec, Service, ServiceAccount},
};
use ollama_guard::{
    config::{Config, HostMember, Metrics, Overrides, Surroundings, load},
    doors::HOST_GROUPS,
};
use ollama_guard_tests::{
    bed::SERVICE_CAPABILITIES,
    deployment::{
        NAME, Objects, chart, deploy, helm_lint, helm_template, kustomized, object, objects,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// What the pods see of the node's files, and may write to.
const HOST_PATHS: [(&str, bool); 3] = [
    ("/sys/fs/bpf/ollama-guard", true),
    ("/var/lib/ollama-guard", true),
    // For the inner door, which attaches to the root of this hierarchy.
    ("/sys/fs/cgroup", false),
];
/// The mount that no path of the configuration leads to: the inner door's.
const CGROUP: &str = "/host/cgroup";

/// Overlays, and the values that are to give the same.
const THE_SAME: [(&str, &str); 4] = [
    ("base", ""),
    ("overlays/observe", "mode: observe"),
    ("overlays/detach", "detach: true"),
    (
        "overlays/monitoring",
        "metrics: {expose: true, allow: [192.0.2.0/24], serviceMonitor: {enabled: true}, \
         prometheusRule: {enabled: true}}",
    ),
];

/// A host with something in every group.
struct SomeHost;

impl Surroundings for SomeHost {
    fn group(&self, name: &str) -> Option<Result<Vec<HostMember>, String>> {
        let net = "192.0.2.7/32".parse().map_err(|error| format!("{error}"));
        let member = |net| vec![HostMember { net, interface: "eth0".into(), only_there: false }];
        HOST_GROUPS.iter().any(|(known, _)| *known == name).then(|| net.map(member))
    }
}

/// Reads an object as what it is, and refuses what that kind does not have: the API server would drop it
/// without a word.
fn typed<T: DeserializeOwned + Serialize>(object: &Value) -> Result<T> {
    let typed: T = serde_json::from_value(object.clone())?;
    let again = serde_json::to_value(&typed)?;
    ensure!(again == *object, "there is no such field:\nwritten {object}\nread    {again}");
    Ok(typed)
}

/// Whether every object is of a kind that the guard has a use for, and is spelt right. Roles are none.
fn check_kinds(objects: &Objects) -> Result<()> {
    for (key, object) in objects {
        let kind = key.split('/').next().unwrap_or_default();
        match kind {
            "DaemonSet" => typed::<DaemonSet>(object).map(drop),
            "ConfigMap" => typed::<ConfigMap>(object).map(drop),
            "Namespace" => typed::<Namespace>(object).map(drop),
            "Service" => typed::<Service>(object).map(drop),
            "ServiceAccount" => typed::<ServiceAccount>(object).map(drop),
            // Of the Prometheus operator; their groups and endpoints are looked at below.
            "ServiceMonitor" | "PrometheusRule" => Ok(()),
            _ => Err(anyhow::anyhow!("nothing here needs a {kind}")),
        }
        .with_context(|| key.clone())?;
    }
    Ok(())
}

fn pod(daemon_set: &DaemonSet) -> Result<&PodSpec> {
    let template = daemon_set.spec.as_ref().context("no spec")?.template.spec.as_ref();
    template.context("no pod")
}

fn guard(pod: &PodSpec) -> Result<&Container> {
    ensure!(pod.containers.len() == 1 && pod.init_containers.is_none(), "one container");
    pod.containers.first().context("no container")
}

/// The privileges are those that the tests give the daemon everywhere else.
fn check_privileges(pod: &PodSpec) -> Result<()> {
    ensure!(pod.host_network == Some(true) && pod.host_pid.is_none() && pod.host_ipc.is_none());
    ensure!(pod.automount_service_account_token == Some(false), "no token");
    let of_pod = pod.security_context.as_ref().context("no context")?;
    let profile = of_pod.seccomp_profile.as_ref().context("no seccomp")?;
    ensure!(profile.type_ == "RuntimeDefault" && of_pod.sysctls.is_none());
    let container = guard(pod)?;
    ensure!(container.ports.is_none() && container.lifecycle.is_none(), "no detach at the end");
    let context = container.security_context.as_ref().context("no context")?;
    ensure!(context.privileged != Some(true), "privileged");
    ensure!(context.allow_privilege_escalation == Some(false));
    ensure!(context.read_only_root_filesystem == Some(true));
    ensure!(context.proc_mount.is_none() && context.seccomp_profile.is_none());
    let capabilities = context.capabilities.as_ref().context("no capabilities")?;
    ensure!(capabilities.drop.as_deref() == Some(&["ALL".to_owned()][..]));
    let added: BTreeSet<_> = capabilities.add.iter().flatten().cloned().collect();
    let needed = SERVICE_CAPABILITIES.map(str::to_uppercase);
    ensure!(added == BTreeSet::from(needed), "{added:?}");
    Ok(())
}

/// What the pod sees of its node is what is listed above, and of each volume there is one mount.
fn check_volumes(pod: &PodSpec) -> Result<()> {
    let container = guard(pod)?;
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let volumes = pod.volumes.as_deref().unwrap_or_default();
    let mut of_host = Vec::new();
    for volume in volumes {
        let of_it: Vec<_> = mounts.iter().filter(|mount| mount.name == volume.name).collect();
        let [mount] = of_it[..] else {
            anyhow::bail!("{} is mounted {} times", volume.name, of_it.len())
        };
        ensure!(mount.mount_propagation.is_none() && mount.sub_path.is_none(), "{mount:?}");
        if let Some(host) = &volume.host_path {
            of_host.push((&*host.path, mount.read_only != Some(true)));
        }
    }
    ensure!(mounts.len() == volumes.len(), "a mount of no volume");
    ensure!(of_host == HOST_PATHS, "{of_host:?}");
    Ok(())
}

/// What the pod's program makes of its ConfigMap and its environment.
fn configuration(pod: &PodSpec, map: &ConfigMap) -> Result<Config> {
    let directory = tempfile::tempdir()?;
    for (name, text) in map.data.iter().flatten() {
        let file = directory.path().join(name);
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    }
    let overrides =
        Overrides { config: Some(directory.path().join("config.toml")), ..Overrides::default() };
    let variables = guard(pod)?.env.as_deref().unwrap_or_default();
    let environment: HashMap<&str, &str> =
        variables.iter().map(|one| (&*one.name, one.value.as_deref().unwrap_or(""))).collect();
    load(&overrides, &environment, &SomeHost).map_err(|problems| anyhow::anyhow!("{problems}"))
}

/// Everything that the daemon writes has a mount that it may write to, and every mount is there for something.
fn check_mounts_are_used(pod: &PodSpec, config: &Config) -> Result<()> {
    let mounts = guard(pod)?.volume_mounts.as_deref().unwrap_or_default();
    let main = Path::new(ollama_guard::config::DEFAULT_CONFIG);
    let paths = &config.paths;
    let mut used = BTreeSet::from([PathBuf::from(CGROUP)]);
    for (path, is_written) in
        [(&*paths.pin_dir, true), (&*paths.state_dir, true), (&*paths.socket, true), (main, false)]
    {
        let mount = mounts.iter().find(|mount| path.starts_with(&mount.mount_path));
        let mount = mount.with_context(|| format!("no mount for {}", path.display()))?;
        let read_only = mount.read_only == Some(true);
        ensure!(read_only != is_written, "{} is read-only: {read_only}", mount.mount_path);
        used.insert(PathBuf::from(&mount.mount_path));
    }
    let all: BTreeSet<_> = mounts.iter().map(|mount| PathBuf::from(&mount.mount_path)).collect();
    ensure!(all == used, "unused: {:?}", all.difference(&used));
    Ok(())
}

/// The kubelet asks where the daemon answers.
fn check_probes(container: &Container, config: &Config) -> Result<()> {
    let Metrics::At(address) = &config.metrics else { anyhow::bail!("no metrics, no probes") };
    let asked = |probe: &Option<k8s_openapi::api::core::v1::Probe>| -> Result<HTTPGetAction> {
        probe.clone().and_then(|probe| probe.http_get).context("no probe over HTTP")
    };
    let (live, ready) = (asked(&container.liveness_probe)?, asked(&container.readiness_probe)?);
    for get in [&live, &ready] {
        ensure!(get.host.as_deref() == Some("127.0.0.1"), "{get:?}");
        let port = serde_json::to_value(&get.port)?;
        ensure!(port == address.port(), "{get:?}");
    }
    let observes =
        config.services.iter().any(|service| service.mode == ollama_guard_common::Mode::Observe);
    let expected = if observes { "/readyz?observe=ok" } else { "/readyz" };
    ensure!(live.path.as_deref() == Some("/healthz"), "{live:?}");
    ensure!(ready.path.as_deref() == Some(expected), "{ready:?}");
    Ok(())
}

/// All of the above, for every DaemonSet among them.
fn check(rendered: &Objects) -> Result<()> {
    check_kinds(rendered)?;
    let mut seen = 0;
    for (key, value) in rendered.iter().filter(|(key, _)| key.starts_with("DaemonSet/")) {
        let daemon_set: DaemonSet = typed(value)?;
        let pod = pod(&daemon_set)?;
        let container = guard(pod)?;
        let name = key.trim_start_matches("DaemonSet/");
        let map: ConfigMap = typed(object(rendered, &format!("ConfigMap/{name}"))?)?;
        let mounted = pod.volumes.iter().flatten().filter_map(|one| one.config_map.as_ref());
        ensure!(mounted.map(|map| &*map.name).eq([name]), "{key} has another configuration");
        let config = configuration(pod, &map)?;
        check_privileges(pod)
            .and_then(|()| check_volumes(pod))
            .and_then(|()| check_mounts_are_used(pod, &config))
            .with_context(|| key.clone())?;
        match container.args.as_deref().map(|args| args.join(" ")).as_deref() {
            Some("run") => check_probes(container, &config)?,
            Some("detach --hold") => ensure!(container.liveness_probe.is_none()),
            other => anyhow::bail!("{key} runs {other:?}"),
        }
        seen += 1;
    }
    ensure!(seen > 0, "no DaemonSet");
    Ok(())
}

/// The files as they stand, without the programs that render them.
#[test]
fn the_base_asks_for_no_more_than_the_daemon_needs() -> Result<()> {
    let base = deploy().join("kubernetes/base");
    let read = |name: &str| fs::read_to_string(base.join(name)).with_context(|| name.to_owned());
    let mut found = Objects::new();
    for name in ["namespace.yaml", "serviceaccount.yaml", "daemonset.yaml"] {
        found.append(&mut objects(&read(name)?)?);
    }
    let map = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": NAME },
        "data": { "config.toml": read("config.toml")? },
    });
    found.insert(format!("ConfigMap/{NAME}"), map);
    check(&found)
}

#[test]
fn a_misspelt_field_is_not_taken_for_one() {
    let wrong = serde_json::json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": NAME },
        "automountServiceAcountToken": false,
    });
    let error = typed::<ServiceAccount>(&wrong).unwrap_err().to_string();
    assert!(error.contains("no such field"), "{error}");
}

#[test]
fn chart_and_program_have_one_version() -> Result<()> {
    let chart = fs::read_to_string(deploy().join("helm/ollama-guard/Chart.yaml"))?;
    for line in ["version: VERSION", "appVersion: \"VERSION\""] {
        let line = line.replace("VERSION", env!("CARGO_PKG_VERSION"));
        assert!(chart.lines().any(|one| one == line), "{line} is not in {chart}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn kustomize_and_helm_say_the_same() -> Result<()> {
    for (overlay, values) in THE_SAME {
        let (mut ours, theirs) = (kustomized(overlay)?, chart(values)?);
        // Helm makes it by `--create-namespace`.
        ours.remove(&format!("Namespace/{NAME}")).context("no namespace")?;
        assert!(ours.keys().eq(theirs.keys()), "{overlay}: {:?}, {:?}", ours.keys(), theirs.keys());
        for (key, object) in &ours {
            assert_eq!(Some(object), theirs.get(key), "{overlay}: {key}");
        }
        check(&ours).with_context(|| overlay.to_owned())?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn nodes_that_differ_have_one_guard_each() -> Result<()> {
    let rendered = kustomized("overlays/by-node")?;
    check(&rendered)?;
    let sets = ["DaemonSet/ollama-guard", "DaemonSet/ollama-guard-gpu"];
    let [others, gpu] = sets.map(|key| object(&rendered, key).cloned());
    let (others, gpu) = (others?, gpu?);
    let selector = "/spec/selector/matchLabels";
    assert_ne!(others.pointer(selector), gpu.pointer(selector));
    let pod = "/spec/template/spec";
    assert_eq!(gpu.pointer(&format!("{pod}/nodeSelector/ollama-guard~1role")), Some(&"gpu".into()));
    let term = "affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchExpressions/0";
    let expression = others.pointer(&format!("{pod}/{term}")).context("no affinity")?;
    let expected = serde_json::json!({
        "key": "ollama-guard/role", "operator": "NotIn", "values": ["gpu"],
    });
    assert_eq!(*expression, expected);
    assert!(gpu.pointer(&format!("{pod}/affinity")).is_none());
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_value_of_the_chart_ends_in_a_configuration_that_is_understood() -> Result<()> {
    let lint = helm_lint()?;
    ensure!(lint.succeeded(), "{}{}", lint.stdout, lint.stderr);
    for values in [
        "{allow: [], deny: [203.0.113.66], exclude: [eth9], interfaces: [eth0, 'wg*']}",
        "{groups: {office: [203.0.113.0/24, '2001:db8:7::/48']}, allow: [node, office]}",
        "{groups: {bad: {include: [b.txt]}}, lists: {b.txt: 203.0.113.66}, deny: [bad]}",
        "allow: [{from: 10.0.0.0/8, interfaces: [eth1, 'wg*'], expires: '2036-12-01T18:00:00Z'}]",
        "services: [{name: web, ports: [8080, 9090/tcp], mode: observe, allow: [node]}]",
        "extraConfig: \"[events]\\nper_second = 10\"",
        "metrics: {expose: true, listen: '[::]:9435'}",
        "inner: {enabled: false}",
        "inner: {cgroup: kubepods/besteffort}",
        "{fullnameOverride: a, podLabels: {b: c}, podAnnotations: {d: e}, seLinuxOptions: {type: f}}",
    ] {
        check(&chart(values)?).with_context(|| values.to_owned())?;
    }
    for unsound in [
        "mode: enfocre",
        "alow: [node]",
        "ports: []",
        "ports: [11434/sctp]",
        "services: [{name: web}]",
        "detach: 1",
        "lists: {config.toml: x}",
        "metrics: {listen: off}",
        "inner: {cgroup: ../kubepods}",
    ] {
        let refused = helm_template(unsound)?;
        let why = refused.stderr.contains("schema");
        assert!(!refused.succeeded() && why, "{unsound}: {refused:?}");
    }
    Ok(())
}

/// The alerts of hosts, and a place to scrape that exists.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_the_prometheus_operator_is_told_is_right() -> Result<()> {
    let rendered = kustomized("overlays/monitoring")?;
    let rule = object(&rendered, "PrometheusRule/ollama-guard")?;
    let alerts = fs::read_to_string(deploy().join("prometheus/ollama-guard.rules.yml"))?;
    let alerts: Value = serde_yaml_ng::from_str(&alerts)?;
    assert_eq!(rule.get("spec"), Some(&alerts));
    let monitor = object(&rendered, "ServiceMonitor/ollama-guard")?;
    let service: Service = typed(object(&rendered, "Service/ollama-guard")?)?;
    let spec = service.spec.context("no spec")?;
    assert_eq!(spec.cluster_ip.as_deref(), Some("None"));
    let port = spec.ports.iter().flatten().next().context("no port")?;
    let expected = serde_json::json!([{ "port": port.name, "interval": "15s" }]);
    assert_eq!(monitor.pointer("/spec/endpoints"), Some(&expected));
    let labels = monitor.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let of_service = service.metadata.labels.unwrap_or_default();
    for (key, value) in labels.context("no selector")? {
        assert_eq!(of_service.get(key).map(String::as_str), value.as_str(), "{key}");
    }
    Ok(())
}
