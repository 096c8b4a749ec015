//! A real Prometheus that scrapes a daemon in its namespace, and what the daemon answers to anybody.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    Namespace,
    process::{Process, start},
    wait::until,
};

/// Where it answers, in its namespace.
const ADDRESS: &str = "127.0.0.1:9090";
const READY_LIMIT: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(10);

/// A program of Prometheus: on the path, or where `cargo xtask setup --tests` has unpacked it.
///
/// # Errors
///
/// If it is in neither place.
pub fn prometheus_program(name: &str) -> Result<PathBuf> {
    let on_path = env::var_os("PATH").unwrap_or_default();
    let own = env::current_exe().context("finding the running executable")?;
    let unpacked = own.ancestors().map(|above| above.join("tools/prometheus/usr/bin"));
    env::split_paths(&on_path)
        .chain(unpacked)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("there is no `{name}`: call `cargo xtask setup --tests`"))
}

/// What came back over HTTP.
#[derive(Clone, Debug)]
pub struct Page {
    /// The status.
    pub status: u16,
    /// Everything before the body.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Asks for a path in a namespace, with further lines for the head of the request.
///
/// # Errors
///
/// If nobody answers in time, or not in HTTP.
pub fn fetch(namespace: &Namespace, server: SocketAddr, path: &str, head: &str) -> Result<Page> {
    // 1.0, so that the body comes in one piece.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {server}\r\n{head}\r\n");
    let answer = namespace.enter(|| -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let answer = answer.with_context(|| format!("asking {server} for {path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.with_context(|| format!("no status in {head}"))?;
    Ok(Page { status, head: head.to_owned(), body: body.to_owned() })
}

/// A running Prometheus. Dropping it ends it.
#[derive(Debug)]
pub struct Prometheus<'bed> {
    namespace: &'bed Namespace,
    _process: Process,
    directory: TempDir,
}

/// One series of an answer, without its name.
pub type Labels = BTreeMap<String, String>;

impl<'bed> Prometheus<'bed> {
    /// Starts one that scrapes this address every second as the job `ollama-guard`, and looks at these
    /// rules as often.
    ///
    /// # Errors
    ///
    /// If it does not get ready; the message holds what it said.
    pub fn start(namespace: &'bed Namespace, target: &str, rules: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let file = |name: &str| directory.path().join(name);
        fs::write(file("rules.yml"), rules)?;
        fs::write(
            file("prometheus.yml"),
            format!(
                "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: [rules.yml]\n\
                 scrape_configs:\n- job_name: ollama-guard\n  static_configs:\n  - targets: \
                 [\"{target}\"]\n"
            ),
        )?;
        let log = fs::File::create(file("log"))?;
        let mut command = namespace.command(prometheus_program("prometheus")?);
        command
            .arg(format!("--config.file={}", file("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", file("data").display()))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = start(&mut command)?;
        let prometheus = Self { namespace, _process: process, directory };
        until("Prometheus to be ready", READY_LIMIT, || {
            prometheus.ask("/-/ready").is_ok_and(|page| page.status == 200)
        })
        .with_context(|| prometheus.log())?;
        Ok(prometheus)
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// What an expression is at this moment.
    ///
    /// # Errors
    ///
    /// If it is none that Prometheus understands.
    pub fn query(&self, expression: &str) -> Result<Vec<(Labels, f64)>> {
        let data = self.data(&format!("/api/v1/query?query={}", escaped(expression)))?;
        let result = data["result"].as_array().context("no result")?;
        ensure!(data["resultType"] == "vector", "{expression} is a {}", data["resultType"]);
        result
            .iter()
            .map(|series| {
                let labels: Labels = serde_json::from_value(series["metric"].clone())?;
                let value = series["value"][1].as_str().context("no value")?.parse()?;
                Ok((labels, value))
            })
            .collect()
    }

    /// The alerts that fire at this moment, by name, each as often as it does.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn firing(&self) -> Result<Vec<String>> {
        let fired = self.query("ALERTS{alertstate=\"firing\"}")?;
        let mut names: Vec<_> =
            fired.into_iter().filter_map(|(mut labels, _)| labels.remove("alertname")).collect();
        names.sort();
        Ok(names)
    }

    /// Its rules, as it has understood them.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn rules(&self) -> Result<Vec<Value>> {
        let data = self.data("/api/v1/rules")?;
        let groups = data["groups"].as_array().context("no groups")?;
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        Ok(rules.flatten().cloned().collect())
    }

    /// What it last said of its target: nothing, if all is well.
    ///
    /// # Errors
    ///
    /// If it has none.
    pub fn target_error(&self) -> Result<String> {
        let data = self.data("/api/v1/targets")?;
        let target = &data["activeTargets"][0];
        Ok(target["lastError"].as_str().context("no target")?.to_owned())
    }

    fn data(&self, path: &str) -> Result<Value> {
        let page = self.ask(path)?;
        let mut answer: Value = serde_json::from_str(&page.body).context(page.body.clone())?;
        ensure!(answer["status"] == "success", "{path}: {answer}");
        Ok(answer["data"].take())
    }

    fn ask(&self, path: &str) -> Result<Page> {
        fetch(self.namespace, ADDRESS.parse()?, path, "")
    }
}

/// As it stands in a URL.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
