//! Installing, and changing the rules.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::json;

use super::{DAEMON, Scene};
use crate::{
    bed::{fetch, get, until},
    cluster::{
        objects::{HOST_PORT, NODE_PORT},
        report::seconds,
        ways::{HEALTH, SILENT, Way, everybody_asks},
    },
    policy::{GUARDED, SERVER4, STRANGER4},
    terminal::svg,
};

/// The kubelet brings a changed ConfigMap within its period and the time that it believes its cache.
const BROUGHT: Duration = Duration::from_secs(180);

impl Scene<'_> {
    /// A value that is none.
    pub(super) fn refused(&mut self) -> Result<()> {
        (self.say)("helm refuses a wrong value");
        let mut values = self.values(&[])?;
        values["mode"] = "enfocre".into();
        let refused = self.kube.helm(&["install", "--create-namespace"], Some(&values))?;
        ensure!(!refused.succeeded(), "helm has taken {values}");
        let error = refused.stderr.lines().skip_while(|line| !line.starts_with("Error"));
        let said: Vec<_> = error.map(str::trim_end).filter(|line| !line.is_empty()).collect();
        self.report.show("helm install ... --set mode=enfocre", &said.join("\n"));
        Ok(())
    }

    pub(super) fn install(&mut self) -> Result<()> {
        (self.say)("helm install");
        let values = self.values(&[])?;
        let begin = Instant::now();
        self.kube.helm(&["install", "--create-namespace"], Some(&values))?.expect_success()?;
        self.kube.rollout()?;
        self.report.row("helm install to all pods Ready", seconds(begin.elapsed()));
        let verified = self.kube.in_guard(&["verify"])?;
        let last = verified.expect_success()?.lines().last().unwrap_or_default().to_owned();
        self.report.row("`verify` in the pod", format!("`{last}`"));
        self.see()?;
        let objects = format!(
            "{} links, {} programs, {} maps",
            self.seen.links.len(),
            self.seen.programs.len(),
            self.seen.maps.len()
        );
        self.report.row("the kernel holds for it", objects);
        let mut screen = String::new();
        for words in ["get daemonset ollama-guard", "get pods -o wide"] {
            let printed = self.kube.guard(&words.split(' ').collect::<Vec<_>>())?;
            let command = format!("kubectl -n ollama-guard {words}");
            screen += &format!("# {command}\n{}\n\n", printed.trim_end());
            self.report.show(&command, &printed);
        }
        self.report.picture("kubernetes-pods.svg", svg(screen.trim_end()));
        Ok(())
    }

    pub(super) fn every_way(&mut self) -> Result<()> {
        (self.say)("every way, everybody");
        let count = self.holds()?;
        let strangers = count.silent;
        self.report.row(
            "the same with the guard: who is allowed, outside and in a pod",
            format!("{0} of {0} served", count.served),
        );
        self.report.row(
            "who is not, outside and in a pod of the same node and bridge",
            format!("{strangers} of {strangers} heard nothing"),
        );
        self.report.row(
            "a stranger's pod by hostPort or by NodePort with the policy Cluster, seen as the node",
            format!("{0} of {0} served, for `node` is allowed", count.hidden),
        );
        let status = self.kube.in_guard(&["status"])?.stdout;
        self.report.show(
            "kubectl -n ollama-guard exec daemonset/ollama-guard -- /usr/bin/ollama-guard status",
            &status,
        );
        Ok(())
    }

    /// Where the node's ends of the pods' cables are guarded as well, with the ports that hide who comes by them, pods are
    /// seen by these ways, too.
    pub(super) fn at_the_cables(&mut self) -> Result<()> {
        (self.say)("the pods' cables guarded as well");
        let mut values = self.values(&[])?;
        values["interfaces"] = json!(["door0", "veth*"]);
        values["ports"] = json!([GUARDED, NODE_PORT, HOST_PORT].map(|port| format!("{port}/tcp")));
        self.upgrade(&values)?;
        let ways: Vec<_> = self.ways.iter().cloned().map(Way::seen).collect();
        let mut asked = Err(anyhow!("nobody has asked"));
        until("everybody to be seen", BROUGHT, || {
            asked = everybody_asks(&self.askers(), &ways, true);
            asked.is_ok()
        })
        .with_context(|| format!("{asked:?}"))?;
        let count = asked?;
        self.kube.in_guard(&["verify"])?.expect_success()?;
        self.report.row(
            "the same with `interfaces={door0,veth*}` and those two ports in `ports`: who is not allowed, by every way",
            format!("{0} of {0} heard nothing, {1} of {1} friends served", count.silent, count.served),
        );
        self.upgrade(&self.values(&[])?)?;
        until("the cables to be left alone again", BROUGHT, || self.holds().is_ok())
    }

    /// What a Prometheus gets.
    pub(super) fn metrics(&mut self) -> Result<()> {
        let metrics = fetch(&self.bed.server.namespace, DAEMON.parse()?, "/metrics", "")?.body;
        let wanted = [
            "ollama_guard_interface_packets",
            "ollama_guard_door_covered",
            "ollama_guard_enforcing",
        ];
        let lines = metrics.lines().filter(|line| {
            wanted.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0")
        });
        self.report.show(
            "curl -s 127.0.0.1:9434/metrics    # on the node; without the zeros",
            &lines.collect::<Vec<_>>().join("\n"),
        );
        Ok(())
    }

    pub(super) fn edit(&mut self) -> Result<()> {
        (self.say)("an edit of the allow list");
        let begin = Instant::now();
        self.upgrade(&self.values(&[STRANGER4.into()])?)?;
        self.until_stranger(true)?;
        let brought = begin.elapsed();
        let begin = Instant::now();
        self.upgrade(&self.values(&[])?)?;
        self.until_stranger(false)?;
        self.report.row(
            "helm upgrade with another address to its first answer; without it to silence; most of it is the kubelet's",
            format!("{}; {}", seconds(brought), seconds(begin.elapsed())),
        );
        self.holds().map(drop)
    }

    fn until_stranger(&self, is_served: bool) -> Result<()> {
        let stranger = &self.bed.stranger4.namespace;
        let server = SocketAddr::from((SERVER4, GUARDED));
        until("the edit to be in force", BROUGHT, || {
            let answer = get(stranger, server, HEALTH, SILENT);
            thread::sleep(Duration::from_millis(100));
            answer.is_ok_and(|answer| answer.is_served() == is_served)
        })
    }

    /// A mistake that the schema can't see.
    pub(super) fn mistake(&mut self) -> Result<()> {
        (self.say)("a mistake in the configuration");
        let mut values = self.values(&[STRANGER4.into()])?;
        values["extraConfig"] = "[events]\nper_secnd = 10".into();
        self.upgrade(&values)?;
        let page = || fetch(&self.bed.server.namespace, DAEMON.parse()?, "/readyz", "");
        until("the mistake to be told", BROUGHT, || {
            thread::sleep(Duration::from_millis(200));
            page().is_ok_and(|page| page.body.contains("REJECTED"))
        })?;
        let told = page()?;
        ensure!(told.status == 200, "{told:?}");
        self.report.show("curl -s 127.0.0.1:9434/readyz    # on the node", &told.body);
        self.holds().context("after a configuration that was rejected")?;
        self.upgrade(&self.values(&[])?)?;
        until("the mistake to be forgotten", BROUGHT, || {
            thread::sleep(Duration::from_millis(200));
            page().is_ok_and(|page| page.body == "ok\n")
        })?;
        self.report
            .row("a configuration with a mistake", "told by readiness, and nothing else changed");
        Ok(())
    }
}
