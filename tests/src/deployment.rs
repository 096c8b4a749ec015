//! The Kubernetes manifests and the chart, rendered by the programs that operators use.
//!
//! Nothing here talks to a cluster.

use std::{
    collections::BTreeMap,
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize as _;
use serde_json::Value;

use crate::bed::{Finished, run};

/// Release and namespace in everything that is rendered.
pub const NAME: &str = "ollama-guard";

/// Rendering takes a second at most.
const LIMIT: Duration = Duration::from_secs(60);

/// Objects by kind and name, such as `DaemonSet/ollama-guard`.
pub type Objects = BTreeMap<String, Value>;

/// `ollama-guard/deploy` of the work tree.
#[must_use]
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ollama-guard/deploy")
}

/// A tool that `cargo xtask setup --tests` has put into `target/tools`.
///
/// # Errors
///
/// If it is not there: then nothing was tested, which is a failure.
pub fn tool(path: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("finding the running executable")?;
    let mut places = own.ancestors().map(|above| above.join("tools").join(path));
    places
        .find(|place| place.is_file())
        .with_context(|| format!("there is no target/tools/{path}: `cargo xtask setup --tests`"))
}

/// What `helm template` makes of the chart with these values, in YAML.
///
/// # Errors
///
/// If helm is missing or refuses.
pub fn chart(values: &str) -> Result<Objects> {
    objects(helm_template(values)?.expect_success()?)
}

/// Runs `helm template`, which may refuse.
///
/// # Errors
///
/// If helm is missing.
pub fn helm_template(values: &str) -> Result<Finished> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(values.as_bytes())?;
    let mut helm = Command::new(tool("kubernetes/helm")?);
    helm.args(["template", NAME]).arg(deploy().join("helm/ollama-guard"));
    helm.args(["--namespace", NAME, "--values"]).arg(file.path());
    run(&mut helm, LIMIT)
}

/// Runs `helm lint`, which takes every word for a mistake that is more than advice.
///
/// # Errors
///
/// If helm is missing.
pub fn helm_lint() -> Result<Finished> {
    let mut helm = Command::new(tool("kubernetes/helm")?);
    helm.args(["lint", "--strict"]).arg(deploy().join("helm/ollama-guard"));
    run(&mut helm, LIMIT)
}

/// What `kubectl kustomize` makes of a directory of `deploy/kubernetes`.
///
/// # Errors
///
/// If kubectl is missing or refuses.
pub fn kustomized(directory: &str) -> Result<Objects> {
    let mut kubectl = Command::new(tool("kubernetes/kubectl")?);
    kubectl.arg("kustomize").arg(deploy().join("kubernetes").join(directory));
    objects(run(&mut kubectl, LIMIT)?.expect_success()?)
}

/// The objects in a stream of YAML documents.
///
/// # Errors
///
/// If it is not that, or one is there twice.
pub fn objects(text: &str) -> Result<Objects> {
    let mut found = Objects::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let object = Value::deserialize(document)?;
        if object.is_null() {
            continue;
        }
        let word = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let (kind, name) = (word("/kind"), word("/metadata/name"));
        let key = format!("{}/{}", kind.context("no kind")?, name.context("no name")?);
        ensure!(found.insert(key.clone(), object).is_none(), "{key} is there twice");
    }
    Ok(found)
}

/// One of the objects.
///
/// # Errors
///
/// If it is not among them.
pub fn object<'o>(objects: &'o Objects, key: &str) -> Result<&'o Value> {
    objects.get(key).with_context(|| format!("no {key} among {:?}", objects.keys()))
}

/// Objects as YAML, for programs that read it.
///
/// # Errors
///
/// If they can't be written.
pub fn yaml(objects: &[&Value]) -> Result<String> {
    let documents: Result<Vec<String>, _> = objects.iter().map(serde_yaml_ng::to_string).collect();
    Ok(documents?.join("---\n"))
}
