//! The image, run as the pod that the DaemonSet describes: guarding its node, following its ConfigMap, replaced
//! under a flood, and taking everything away again.
//!
//! podman 5 plays the DaemonSet itself, as one pod. Of it are replaced: the directories of the node, by some of the
//! test's; the ConfigMap, by files laid out as the kubelet lays them out; and the probes, which podman would run
//! as `curl` in an image without one.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ollama_guard_tests::{
    bed::{
        Bed, Cgroup, NEWCOMER4, PIN_DIR_PREFIX, Podman, SERVER_DOOR, Standin, UnderFlood,
        everyone_is_served, fetch, only_the_friend_is_served, until, until_passing, xdp_program_id,
    },
    deployment::{NAME, chart, deploy, object, yaml},
    policy::{FRIEND4, FRIEND6, GUARDED},
};
use serde_json::{Value, json};

/// Where the daemon answers in the node's network.
const HEALTH: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9434);
/// A start in a new container, on a machine that may be busy.
const READY: Duration = Duration::from_secs(60);
/// The files are looked at each second, and read when they were the same for one.
const FOLLOWED: Duration = Duration::from_secs(15);
const PROGRAM: &str = "/usr/bin/ollama-guard";

/// The archive that `cargo xtask image` has written.
fn image() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let name = format!("{NAME}-{}-{}.oci.tar", env!("CARGO_PKG_VERSION"), env::consts::ARCH);
    let mut places = own.ancestors().map(|above| above.join("dist").join(&name));
    let found = places.find(|place| place.is_file());
    found.with_context(|| {
        format!("there is no target/dist/{name}: call `cargo xtask image --quick`")
    })
}

/// A node: its pins, its state, and a ConfigMap as the kubelet mounts it.
struct Node<'bed> {
    podman: Podman<'bed>,
    pins: PathBuf,
    /// Where the inner door stands: the machine's own sockets are not the test's.
    cgroup: Cgroup,
    pods: usize,
}

impl<'bed> Node<'bed> {
    fn new(bed: &'bed Bed) -> Result<Self> {
        let podman = Podman::with_image(&bed.server.namespace, &image()?)?;
        // By tests that run side by side, too.
        static NODES: AtomicUsize = AtomicUsize::new(0);
        let number = NODES.fetch_add(1, Ordering::Relaxed);
        let pins = format!("/sys/fs/bpf/{PIN_DIR_PREFIX}{}-pod{number}", std::process::id());
        let mut node = Self { podman, pins: pins.into(), cgroup: Cgroup::new()?, pods: 0 };
        fs::create_dir(node.podman.file("state"))?;
        let map = node.podman.file("config");
        fs::create_dir(&map)?;
        // As the kubelet makes it. Nobody but root gets that far on a node.
        fs::set_permissions(&map, fs::Permissions::from_mode(0o777))?;
        node.follow(None)?;
        symlink("..data/config.toml", map.join("config.toml"))?;
        Ok(node)
    }

    /// The hierarchy of cgroups that it stands in.
    fn hierarchy(&self) -> Result<&Path> {
        self.cgroup.path().parent().context("a cgroup below the root")
    }

    /// The ConfigMap that the chart writes, for the friend and somebody else.
    fn configuration(&self, more: Option<Ipv4Addr>) -> Result<String> {
        let mut allow = format!("node, {FRIEND4}, '{FRIEND6}'");
        if let Some(more) = more {
            allow.push_str(&format!(", {more}"));
        }
        let cgroup = self.cgroup.path().strip_prefix(self.hierarchy()?)?.display();
        let rendered = chart(&format!(
            "{{allow: [{allow}], interfaces: [{SERVER_DOOR}], inner: {{cgroup: {cgroup}}}}}"
        ))?;
        let map = object(&rendered, "ConfigMap/ollama-guard")?;
        let text = map.pointer("/data/config.toml").and_then(Value::as_str);
        Ok(text.context("no configuration")?.to_owned())
    }

    /// Puts another configuration of the chart's in the place of the ConfigMap's.
    fn follow(&mut self, more: Option<Ipv4Addr>) -> Result<()> {
        let text = self.configuration(more)?;
        self.swap(&text)
    }

    /// Puts another version in the place of the ConfigMap's, as the kubelet's AtomicWriter does: a new directory,
    /// and a link that is renamed over the old one.
    fn swap(&mut self, text: &str) -> Result<()> {
        let map = self.podman.file("config");
        self.pods += 1;
        let version = format!("..version_{}", self.pods);
        fs::create_dir(map.join(&version))?;
        let file = map.join(&version).join("config.toml");
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        symlink(&version, map.join("..data_tmp"))?;
        Ok(fs::rename(map.join("..data_tmp"), map.join("..data"))?)
    }

    /// Plays the DaemonSet that the chart makes of these values. Returns its container's name.
    fn play(&mut self, values: &str) -> Result<String> {
        let rendered = chart(values)?;
        let mut set = object(&rendered, "DaemonSet/ollama-guard")?.clone();
        self.pods += 1;
        let node = self.pins.file_name().context("no name")?.to_string_lossy();
        let name = format!("{node}-{}", self.pods);
        set["metadata"]["name"] = name.clone().into();
        let pod = set.pointer_mut("/spec/template").context("no template")?;
        let container = &mut pod["spec"]["containers"][0];
        container["image"] = format!("localhost/{NAME}:{}", env!("CARGO_PKG_VERSION")).into();
        let own = container["name"].as_str().context("no name")?.to_owned();
        let parts = container.as_object_mut().context("no container")?;
        parts.remove("livenessProbe");
        parts.remove("readinessProbe");
        for volume in pod["spec"]["volumes"].as_array_mut().context("no volumes")? {
            let path = match volume["name"].as_str() {
                Some("pins") => self.pins.clone(),
                Some("state") => self.podman.file("state"),
                Some("config") => self.podman.file("config"),
                Some("cgroup") => self.hierarchy()?.to_owned(),
                _ => continue,
            };
            let name = volume["name"].clone();
            *volume = json!({
                "name": name, "hostPath": { "path": path, "type": "DirectoryOrCreate" },
            });
        }
        self.podman.play(&name, &yaml(&[&set])?)?;
        Ok(format!("{name}-pod-{own}"))
    }

    /// What the kubelet's probe of readiness gets.
    fn ready(&self, bed: &Bed) -> Option<(u16, String)> {
        let page = fetch(&bed.server.namespace, HEALTH, "/readyz", "").ok()?;
        Some((page.status, page.body))
    }

    fn until_ready(&self, bed: &Bed, container: &str) -> Result<()> {
        until("the pod to be ready", READY, || self.ready(bed).is_some_and(|page| page.0 == 200))
            .with_context(|| self.podman.log(container))
    }

    /// Whether a detacher's pod is ready, by the probe that the chart gives it.
    fn is_detached(&self, container: &str) -> Result<bool> {
        Ok(self.podman.exec(container, &[PROGRAM, "detach", "--check"])?.succeeded())
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        // What a test that failed has left; a filter that is pinned outlives its pod.
        while self.podman.down().is_err() {}
        let _ = fs::remove_dir_all(&self.pins);
    }
}

fn is_attached(bed: &Bed) -> Result<bool> {
    Ok(xdp_program_id(&bed.server.namespace, SERVER_DOOR)?.is_some())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_pod_of_the_daemon_set_guards_its_node_through_a_flood_an_update_and_its_own_end() -> Result<()>
{
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    everyone_is_served(&bed)?;
    let mut node = Node::new(&bed)?;
    let container = node.play("")?;
    node.until_ready(&bed, &container)?;
    only_the_friend_is_served(&bed)?;
    let status = node.podman.exec(&container, &[PROGRAM, "verify"])?;
    ensure!(status.succeeded() && status.stdout.contains("inner door"), "{status:?}");

    // A rolling update: the old pod goes before the new one comes.
    let mut newer = String::new();
    let outcome = UnderFlood::during(&bed, || {
        node.podman.down()?;
        newer = node.play("")?;
        node.until_ready(&bed, &newer)
    })?;
    outcome.assert_held("another pod in the place of the first");

    // An uninstallation without a word leaves the filter.
    node.podman.down()?;
    ensure!(is_attached(&bed)?, "the filter went with the pod");
    only_the_friend_is_served(&bed)?;

    // And with one, nothing.
    let detacher = node.play("detach: true")?;
    until("the detacher to be ready", READY, || node.is_detached(&detacher).unwrap_or_default())
        .with_context(|| node.podman.log(&detacher))?;
    everyone_is_served(&bed)?;
    ensure!(!is_attached(&bed)? && fs::read_dir(&node.pins)?.next().is_none(), "something is left");
    node.podman.down()
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_config_map_is_followed_when_it_is_swapped_and_a_broken_one_changes_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let mut node = Node::new(&bed)?;
    let container = node.play("")?;
    node.until_ready(&bed, &container)?;
    until_passing(&bed, GUARDED, &[FRIEND4], FOLLOWED)?;
    node.follow(Some(NEWCOMER4))?;
    until_passing(&bed, GUARDED, &[FRIEND4, NEWCOMER4], FOLLOWED)
        .with_context(|| node.podman.log(&container))?;
    node.swap("mode = \"enfocre\"\n")?;
    until("the mistake to be told", FOLLOWED, || {
        node.ready(&bed).is_some_and(|(status, body)| {
            status == 200 && body.contains("CONFIGURATION REJECTED") && body.contains("enfocre")
        })
    })?;
    until_passing(&bed, GUARDED, &[FRIEND4, NEWCOMER4], FOLLOWED)?;
    node.follow(None)?;
    until_passing(&bed, GUARDED, &[FRIEND4], FOLLOWED)?;
    until("the mistake to be forgotten", FOLLOWED, || {
        node.ready(&bed).is_some_and(|page| page == (200, "ok\n".into()))
    })
}

/// The label of an image is what people look at when something is wrong.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_image_is_one_program_that_runs_as_nobody() -> Result<()> {
    let bed = Bed::new()?;
    let podman = Podman::with_image(&bed.server.namespace, &image()?)?;
    let name = format!("localhost/{NAME}:{}", env!("CARGO_PKG_VERSION"));
    let told = podman.call(&["image", "inspect", &name])?;
    let told: Value = serde_json::from_str(told.expect_success()?)?;
    let config = &told[0]["Config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!([PROGRAM]));
    for label in ["title", "version", "revision", "created", "licenses"] {
        let value = &config["Labels"][format!("org.opencontainers.image.{label}")];
        assert!(value.as_str().is_some_and(|text| !text.is_empty()), "{label}: {config}");
    }
    assert_eq!(told[0]["RootFS"]["Layers"].as_array().map(Vec::len), Some(1));
    let run = ["run", "--rm", "--network=host", "--read-only", "--cap-drop=all", &name];
    let version = podman.call(&[&run[..], &["--version"]].concat())?;
    let version = version.expect_success()?;
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    // Neither a shell nor anything else.
    let shell = podman.call(&[&run[..6], &["--entrypoint", "/bin/sh"], &run[6..]].concat())?;
    assert!(!shell.succeeded(), "{shell:?}");
    let Some(path) = Path::new("container/Containerfile").to_str() else { return Ok(()) };
    assert!(fs::read_to_string(deploy().join(path))?.contains("\nFROM scratch\n"));
    Ok(())
}
