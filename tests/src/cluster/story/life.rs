//! What happens to a guard in its life: it is replaced, left alone, doubled, uninstalled, and taken away.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{DAEMON, NEXT, Scene};
use crate::{
    bed::{Objects, SERVER_DOOR, until, xdp_program_id},
    cluster::{
        curve::Recorder, kube::ROLLOUT, node::NAME as NODE, report::seconds, ways::everybody_asks,
    },
};

/// So long the API server is away.
const AWAY: Duration = Duration::from_secs(20);
/// So long before and after an update it is looked at what is usual.
const CALM: Duration = Duration::from_secs(5);
/// How long the kubelet takes to be seen as gone and as back.
const PERIOD: Duration = Duration::from_secs(60);

impl Scene<'_> {
    fn next_values(&self) -> Result<Value> {
        let mut values = self.values(&[])?;
        values["image"]["tag"] = NEXT.into();
        Ok(values)
    }

    pub(super) fn update_under_load(&mut self) -> Result<()> {
        (self.say)("a rolling update under load to another version, and back");
        let own = self.kube.layout()?;
        let mut took = Duration::ZERO;
        let what = "rolling update to a version with another layout of maps, and back, under load";
        let bed = self.bed;
        let (outcome, picture) =
            Recorder::during(&bed.server.namespace, DAEMON.parse()?, |recorder| {
                self.under_load(what, |scene| {
                    thread::sleep(CALM);
                    let begin = Instant::now();
                    recorder.mark("helm upgrade");
                    scene.upgrade(&scene.next_values()?)?;
                    scene.kube.rollout()?;
                    took = begin.elapsed();
                    let next = scene.kube.layout()?;
                    ensure!(next == own + 1, "layout {next} after {own}");
                    scene.see()?;
                    recorder.mark("Ready; and back");
                    scene.upgrade(&scene.values(&[])?)?;
                    scene.kube.rollout()?;
                    recorder.mark("Ready");
                    thread::sleep(CALM);
                    Ok(())
                })
            });
        outcome?;
        self.report.picture("kubernetes-metrics.svg", picture);
        ensure!(self.kube.layout()? == own, "not the version that it was");
        self.report
            .row("helm upgrade to the other version to all pods Ready, under load", seconds(took));
        self.see()?;
        let revisions = self.kube.guard(&["rollout", "history", "daemonset/ollama-guard"])?;
        let lines = revisions.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
        ensure!(lines.count() >= 2, "not two revisions: {revisions}");
        Ok(())
    }

    pub(super) fn without_api(&mut self) -> Result<()> {
        (self.say)("without an API server");
        let mut back = Duration::ZERO;
        let what = format!("API server away for {} s, under load", AWAY.as_secs());
        self.under_load(&what, |scene| {
            scene.plane.kill_server()?;
            thread::sleep(AWAY);
            ensure!(scene.kube.ask(&["get", "nodes"]).is_err(), "somebody else answers");
            scene.plane.start_server()?;
            back = scene.plane.until_answering(&scene.kube)?;
            Ok(())
        })?;
        self.report.row("and back after", seconds(back));
        self.kube.rollout()?;
        self.holds().map(drop)
    }

    pub(super) fn without_kubelet(&mut self) -> Result<()> {
        (self.say)("without a kubelet");
        let pod = self.guards_pod()?;
        // A kubelet that starts says that its node is not ready, and for that moment no Service leads to its pods.
        let ways: Vec<_> = self.ways.iter().filter(|way| !way.is_service).cloned().collect();
        let what =
            "kubelet killed, away for 10 s, started again, under load (ways without a Service)";
        self.under_load_by(&ways, what, |scene| {
            scene.node.kill_kubelet()?;
            thread::sleep(Duration::from_secs(10));
            scene.node.start_kubelet()?;
            let ready = format!("node/{NODE}");
            scene.kube.ask(&["wait", "--for=condition=Ready", "--timeout=120s", &ready])?;
            thread::sleep(Duration::from_secs(10));
            scene.kube.rollout()
        })?;
        ensure!(self.guards_pod()? == pod, "the guard's pod is another one than {pod}");
        Ok(())
    }

    /// Name and restarts.
    fn guards_pod(&self) -> Result<String> {
        let path = "jsonpath={.items[*].metadata.uid} {.items[*].status.containerStatuses[*].restartCount}";
        self.kube.guard(&["get", "pods", "-o", path])
    }

    /// A second release on the same node, of another version.
    pub(super) fn second_guard(&mut self) -> Result<()> {
        (self.say)("a second guard, of another version, on the same node");
        let mut values = self.next_values()?;
        values["fullnameOverride"] = "second".into();
        let render = self.kube.rendered("second", &values)?;
        self.kube.create(&render)?;
        let log = ["-n", "ollama-guard", "logs", "daemonset/second"];
        let mut said = String::new();
        until("the second guard to say why it does not start", ROLLOUT, || {
            thread::sleep(Duration::from_millis(500));
            said = self.kube.ask(&log).unwrap_or_default();
            said.contains("another")
        })
        .with_context(|| self.kube.guard(&["get", "pods"]).unwrap_or_default())?;
        let ready = self.kube.guard(&[
            "get",
            "daemonset",
            "second",
            "-o",
            "jsonpath={.status.numberReady}",
        ])?;
        ensure!(ready == "0", "{ready} pods of the second are Ready");
        self.holds()?;
        self.kube.delete(&render)?;
        self.holds()?;
        let line = said.lines().last().unwrap_or_default().trim().to_owned();
        self.report.row(
            "a second guard, of another version, on the same node",
            "does not start; the first goes on",
        );
        self.report.show("kubectl -n ollama-guard logs daemonset/second --tail=1", &line);
        Ok(())
    }

    pub(super) fn uninstall_and_again(&mut self) -> Result<()> {
        (self.say)("uninstalled without a word, and installed again");
        self.under_load("helm uninstall without detach, and install again, under load", |scene| {
            scene.kube.helm(&["uninstall", "--wait"], None)?.expect_success()?;
            thread::sleep(Duration::from_secs(5));
            let values = scene.values(&[])?;
            scene.kube.helm(&["install"], Some(&values))?.expect_success()?;
            scene.kube.rollout()
        })?;
        self.see()
    }

    pub(super) fn remove(&mut self) -> Result<()> {
        (self.say)("detached, and uninstalled");
        self.see()?;
        let mut values = self.values(&[])?;
        values["detach"] = true.into();
        let begin = Instant::now();
        self.upgrade(&values)?;
        self.kube.rollout()?;
        let took = begin.elapsed();
        let count = everybody_asks(&self.askers(), &self.ways, false)?;
        let ready = self.kube.guard(&["get", "pods"])?;
        self.report.show("kubectl -n ollama-guard get pods    # with detach=true", &ready);
        self.kube.helm(&["uninstall", "--wait"], None)?.expect_success()?;
        self.report.row("helm upgrade --set detach=true to all pods Ready", seconds(took));
        self.report.row("then everybody, by every way", format!("{0} of {0} served", count.served));
        let seen = self.seen.clone();
        until("the kernel to let go of everything", PERIOD, || {
            Objects::now().is_ok_and(|now| now.within(&seen).is_empty())
        })
        .with_context(|| format!("left: {:?}", Objects::now().map(|now| now.within(&seen))))?;
        let pins = self.node.pinned()?;
        ensure!(pins.is_empty(), "pins are left: {pins:?}");
        let door = xdp_program_id(&self.bed.server.namespace, SERVER_DOOR)?;
        ensure!(door.is_none(), "a program is left at the door");
        let total = seen.links.len() + seen.programs.len() + seen.maps.len();
        self.report.row(
            "after helm uninstall",
            format!(
                "of {total} links, programs and maps that were ever pinned 0 are left, and 0 pins"
            ),
        );
        Ok(())
    }
}
