//! The story: a cluster without a guard, with one, through all that happens to one, and without again.

mod around;
mod life;
mod load;

use std::{
    fs,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use self::load::Load;
use super::{
    Props, Report,
    kube::Kube,
    left,
    node::{NAME as NODE, Node},
    objects::{self, NODE_PORT},
    plane::Plane,
    report::seconds,
    settings::{PODS4, PODS6},
    ways::{Asker, Way, everybody_asks, lay, ways},
};
use crate::{
    bed::{Answer, Bed, Namespace, Objects, post},
    policy::{FRIEND4, FRIEND6, GUARDED},
};

/// The networks of services.
const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];
/// The image, and the tag of the next version's, whose maps have another layout.
const REPOSITORY: &str = "localhost/ollama-guard";
const NEXT: &str = "next";
/// Where the daemon answers in the node's network.
const DAEMON: &str = "127.0.0.1:9434";
/// How long kube-proxy may take to lay the ways of a service.
const LAID: Duration = Duration::from_secs(30);
/// How long a model may think on a machine that is busy.
const PROMPT: Duration = Duration::from_secs(120);

/// Everything that is there, and what has been seen.
struct Scene<'s> {
    bed: &'s Bed,
    node: Node<'s>,
    plane: Plane<'s>,
    kube: Kube<'s>,
    /// The networks of the pods that ask.
    friend: Arc<Namespace>,
    stranger: Arc<Namespace>,
    /// The addresses of the pod that is let in.
    friends: Vec<IpAddr>,
    ways: Vec<Way>,
    seen: Objects,
    report: Report,
    say: &'s dyn Fn(&str),
}

/// Plays it. `say` is told each chapter.
///
/// # Errors
///
/// At the first thing that is not as it should be.
pub fn play(props: &Props, say: &dyn Fn(&str)) -> Result<Report> {
    if props.work.exists() {
        fs::remove_dir_all(&props.work)?;
    }
    fs::create_dir_all(&props.work)?;
    let bed = Bed::new()?;
    let mut scene = Scene::set(&bed, props, say)?;
    if let Err(error) = scene.tell() {
        say(&format!("until then:\n{}", scene.report));
        let error = error.context(scene.trouble());
        if props.hold {
            say(&format!("{error:#}\nheld: press Enter to take it down"));
            std::io::stdin().read_line(&mut String::new())?;
        }
        return Err(error);
    }
    let report = scene.report.clone();
    drop(scene);
    fs::remove_dir_all(&props.work)?;
    Ok(report)
}

impl<'s> Scene<'s> {
    /// The cluster with its pods, without a guard.
    fn set(bed: &'s Bed, props: &Props, say: &'s dyn Fn(&str)) -> Result<Self> {
        let namespace = &bed.server.namespace;
        let mut report = Report::default();
        say("the control plane");
        let begin = Instant::now();
        let plane = Plane::start(namespace, props)?;
        report.row("API server answers", seconds(begin.elapsed()));
        say("the node");
        let begin = Instant::now();
        let kube = Kube::new(namespace, props);
        let node = Node::start(namespace, props, &props.work.join("kubeconfig"))?;
        let ready = ["wait", "--for=condition=Ready", "--timeout=120s", &format!("node/{NODE}")];
        kube.until("the node", &["get", "nodes", "-o", "name"], |said| said.contains(NODE))
            .and_then(|()| kube.ask(&ready))
            .with_context(|| node.logs())?;
        report
            .row("containerd, kubelet, kube-proxy up and the node Ready", seconds(begin.elapsed()));
        say("the pods, with a real LLM server");
        let begin = Instant::now();
        let pods = ["llm", "llm-host", "friend", "stranger"];
        let model = &props.model;
        let mut all = vec![objects::server(model), objects::host_server(model)];
        all.extend(pods[2..].iter().map(|name| objects::client(name, model)));
        all.extend(objects::services());
        // The account that pods have by default is made by a controller.
        kube.until("an account", &["get", "serviceaccount", "default"], |_| true)?;
        kube.apply(&all)?;
        for name in pods {
            kube.until_ready(&format!("pod/{name}")).with_context(|| node.logs())?;
        }
        report.row("four pods Ready, two of them llama.cpp with a model", seconds(begin.elapsed()));
        let of_pod = |name: &str, number| -> Result<Namespace> {
            let uid = kube.ask(&["get", "pod", name, "-o", "jsonpath={.metadata.uid}"])?;
            Namespace::of_process(number, name, node.process_of(&uid)?)
        };
        lay(bed, &[PODS4, PODS6, SERVICES[0], SERVICES[1]])?;
        let service =
            kube.ask(&["get", "service", "llm", "-o", "jsonpath={.spec.clusterIPs[*]}"])?;
        let service: Vec<IpAddr> = service.split(' ').filter_map(|ip| ip.parse().ok()).collect();
        let server = kube.addresses("pod/llm")?;
        ensure!(
            server.len() == 2 && service.len() == 2,
            "not in both families: {server:?}, {service:?}"
        );
        Ok(Self {
            friend: Arc::new(of_pod("friend", 900)?),
            stranger: Arc::new(of_pod("stranger", 901)?),
            friends: kube.addresses("pod/friend")?,
            ways: ways(&server, &service),
            bed,
            node,
            plane,
            kube,
            seen: Objects::default(),
            report,
            say,
        })
    }

    fn tell(&mut self) -> Result<()> {
        self.without_a_guard()?;
        self.prompt()?;
        self.refused()?;
        self.install()?;
        self.every_way()?;
        self.at_the_cables()?;
        self.edit()?;
        self.mistake()?;
        self.update_under_load()?;
        self.without_api()?;
        self.without_kubelet()?;
        self.metrics()?;
        self.second_guard()?;
        self.uninstall_and_again()?;
        self.remove()
    }

    /// What to look at when something was not as it should be.
    fn trouble(&self) -> String {
        let pods = self.kube.ask(&["get", "pods", "-A", "-o", "wide"]).unwrap_or_default();
        let log = self.kube.guard(&["logs", "daemonset/ollama-guard", "--tail=30"]);
        format!("{pods}\nthe guard:\n{}\n{}", log.unwrap_or_default(), self.node.logs())
    }

    /// The values that everything is installed with; these are let in beside the friends.
    fn values(&self, more: &[IpAddr]) -> Result<Value> {
        let mut allow = vec!["node".to_owned(), FRIEND4.to_string(), FRIEND6.to_string()];
        allow.extend(self.friends.iter().chain(more).map(IpAddr::to_string));
        Ok(json!({
            "image": { "repository": REPOSITORY, "pullPolicy": "Never" },
            "ports": [format!("{GUARDED}/tcp"), format!("{NODE_PORT}/tcp")],
            "allow": allow,
            // A cable between namespaces is a container's plumbing, by itself.
            "interfaces": ["door0"],
            "inner": { "cgroup": self.node.cgroup()? },
            "cgroupDir": self.node.hierarchy()?,
        }))
    }

    /// Upgrades to these values.
    fn upgrade(&self, values: &Value) -> Result<()> {
        self.kube.helm(&["upgrade"], Some(values))?.expect_success().map(drop)
    }

    fn askers(&self) -> [Asker<'_>; 5] {
        [
            Asker::outside(&self.bed.friend, true),
            Asker::outside(&self.bed.stranger4, false),
            Asker::outside(&self.bed.stranger6, false),
            Asker::pod(&self.friend, true),
            Asker::pod(&self.stranger, false),
        ]
    }

    /// Whether only those are served who are let in, by every way.
    fn holds(&self) -> Result<super::ways::Count> {
        everybody_asks(&self.askers(), &self.ways, true)
    }

    /// Something happens while strangers flood, knock by every way, and friends ask all the time.
    fn under_load(&mut self, what: &str, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let ways = self.ways.clone();
        self.under_load_by(&ways, what, work)
    }

    /// The same by some of the ways.
    fn under_load_by(
        &mut self,
        ways: &[Way],
        what: &str,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let load = Load::during(self, ways, work)?;
        self.report.row(what, load.told()?);
        Ok(())
    }

    fn without_a_guard(&mut self) -> Result<()> {
        (self.say)("without a guard everybody is served");
        // kube-proxy takes a while until its rules are there.
        let mut asked = everybody_asks(&self.askers(), &self.ways, false);
        let begin = Instant::now();
        while asked.is_err() && begin.elapsed() < LAID {
            asked = everybody_asks(&self.askers(), &self.ways, false);
        }
        let count = asked?;
        let ways = self.ways.len();
        let served = count.served;
        self.report.row(
            &format!("without a guard: everybody, by {ways} ways, IPv4 and IPv6"),
            format!("{served} of {served} served"),
        );
        Ok(())
    }

    fn prompt(&mut self) -> Result<()> {
        (self.say)("the model answers");
        let server = self.ways[0].sockets[0];
        let body = json!({
            "model": "gemma3:270m", "max_tokens": 24,
            "messages": [{ "role": "user", "content": "Say hello." }],
        });
        let begin = Instant::now();
        let path = "/v1/chat/completions";
        let answer = post(&self.bed.friend.namespace, server, path, &body.to_string(), PROMPT)?;
        let Answer::Served(body) = answer else { anyhow::bail!("the model answered {answer:?}") };
        let told: Value = serde_json::from_slice(&body)?;
        let tokens = told["usage"]["completion_tokens"].as_u64().context("no tokens")?;
        self.report.row(
            "a prompt to the model, from outside to the pod's address",
            format!("{tokens} tokens in {}", seconds(begin.elapsed())),
        );
        Ok(())
    }

    fn see(&mut self) -> Result<()> {
        left::see(&self.node, &mut self.seen)
    }
}
