//! A node: containerd, kubelet and kube-proxy on a namespace, with process ids, mounts and cgroups of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Props, settings};
use crate::{
    bed::{
        Cgroup, Namespace, Process, hierarchies, pins, remove_cgroup, run, start, until, until_some,
    },
    policy::{SERVER4, SERVER6},
};

const READY: Duration = Duration::from_secs(60);
const COMMAND: Duration = Duration::from_secs(120);
/// What the cluster calls it.
pub(super) const NAME: &str = "node-a";
/// Where the chart's pods keep their pins.
const PINS: &str = "/sys/fs/bpf/ollama-guard";

/// A running node. Dropping it ends all of its processes and removes its cgroups.
#[derive(Debug)]
pub(super) struct Node<'bed> {
    namespace: &'bed Namespace,
    programs: PathBuf,
    work: PathBuf,
    kubelet: Option<Process>,
    _proxy: Process,
    _containerd: Process,
    init: Init,
    cgroup: NodeCgroup,
}

/// The first process of the node, and its keeper. When it ends, the kernel ends all others of the node.
#[derive(Debug)]
struct Init {
    keeper: Process,
    pid: i32,
}

/// The node's cgroup in every hierarchy.
#[derive(Debug)]
struct NodeCgroup(Cgroup);

impl<'bed> Node<'bed> {
    /// Starts it. `kubeconfig` leads to the API server.
    ///
    /// # Errors
    ///
    /// If something does not come up; the logs are in `work`.
    pub(super) fn start(
        namespace: &'bed Namespace,
        props: &Props,
        kubeconfig: &Path,
    ) -> Result<Self> {
        let work = props.work.join("node");
        for directory in ["lib", "log", "bin", "cni"] {
            fs::create_dir_all(work.join(directory))?;
        }
        forward(namespace)?;
        let cgroup = NodeCgroup::new()?;
        settings::commands(&props.programs, &work)?;
        let init = Init::start(namespace, &props.programs, &work)?;
        let cgroup_root = format!("/{}", cgroup.name()?);
        settings::write(&props.programs, &work, kubeconfig, &cgroup_root)?;
        let inside = |program: &Path, log: &str| -> Result<Command> {
            let mut command = init.command(namespace, program);
            command.env("PATH", settings::path(&props.programs, &work)?);
            logged(&mut command, &work.join(log))?;
            Ok(command)
        };
        let programs = &props.programs;
        let mut containerd = inside(&programs.join("node/usr/bin/containerd"), "containerd.log")?;
        let containerd = start(containerd.arg("--config").arg(work.join("containerd.toml")))?;
        let mut proxy = inside(&programs.join("bin/kube-proxy"), "kube-proxy.log")?;
        let proxy =
            start(proxy.arg(format!("--config={}", work.join("kube-proxy.yaml").display())))?;
        let mut node = Self {
            namespace,
            programs: programs.clone(),
            work,
            kubelet: None,
            _proxy: proxy,
            _containerd: containerd,
            init,
            cgroup,
        };
        until("containerd", READY, || node.ctr(&["version"]).is_ok())?;
        for image in ["pause", "llm"] {
            node.import(&props.images.join(format!("{image}.tar")))?;
        }
        for image in [&props.guard, &props.next] {
            node.import(image)?;
        }
        node.start_kubelet()?;
        Ok(node)
    }

    /// The name of its cgroup.
    pub(super) fn cgroup(&self) -> Result<String> {
        self.cgroup.name()
    }

    /// The hierarchy of cgroups that the inner door is for.
    pub(super) fn hierarchy(&self) -> Result<PathBuf> {
        Ok(self.cgroup.0.path().parent().context("it has one")?.to_owned())
    }

    /// Starts its kubelet.
    pub(super) fn start_kubelet(&mut self) -> Result<()> {
        let mut kubelet = self.command(&self.programs.join("bin/kubelet"))?;
        logged(&mut kubelet, &self.work.join("kubelet.log"))?;
        kubelet.arg(format!("--config={}", self.work.join("kubelet.yaml").display()));
        kubelet.arg(format!("--kubeconfig={}", self.work.join("../kubeconfig").display()));
        kubelet.arg(format!("--hostname-override={NAME}"));
        kubelet.arg(format!("--node-ip={SERVER4},{SERVER6}"));
        kubelet.args(["--container-runtime=remote", "--root-dir=/var/lib/kubelet"]);
        kubelet.arg("--container-runtime-endpoint=unix:///run/containerd/containerd.sock");
        self.kubelet = Some(start(&mut kubelet)?);
        Ok(())
    }

    /// Kills its kubelet, as a machine does that is short of memory.
    pub(super) fn kill_kubelet(&mut self) -> Result<()> {
        let mut keeper = self.kubelet.take().context("there is no kubelet")?;
        // nsenter waits for what it has started on the node.
        for child in children(keeper.pid().as_raw()) {
            kill(Pid::from_raw(child), Signal::SIGKILL)?;
        }
        keeper.wait(READY).map(drop)
    }

    /// Imports an image.
    fn import(&self, archive: &Path) -> Result<()> {
        let archive = archive.display().to_string();
        self.ctr(&["images", "import", &archive]).with_context(|| archive.clone())?;
        Ok(())
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let mut ctr = self.command(&self.programs.join("node/usr/bin/ctr"))?;
        ctr.args(["--namespace", "k8s.io"]).args(arguments);
        Ok(run(&mut ctr, COMMAND)?.expect_success()?.to_owned())
    }

    /// A command on the node.
    fn command(&self, program: &Path) -> Result<Command> {
        let mut command = self.init.command(self.namespace, program);
        command.env("PATH", settings::path(&self.programs, &self.work)?);
        Ok(command)
    }

    /// The node's pin directory, as it is seen from outside.
    pub(super) fn pins(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{PINS}", self.init.pid))
    }

    /// All of our pins on the node, as they are seen from outside.
    pub(super) fn pinned(&self) -> Result<Vec<PathBuf>> {
        pins(&self.pins())
    }

    /// The process id of something that runs in a pod, as the machine sees it.
    pub(super) fn process_of(&self, uid: &str) -> Result<i32> {
        let pod = format!("pod{uid}");
        let processes = fs::read_dir("/proc")?.flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let found = pids.find(|pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&pod))
        });
        found.with_context(|| format!("nothing runs in the pod {uid}"))
    }

    /// The end of its logs, for messages.
    pub(super) fn logs(&self) -> String {
        ["kubelet.log", "containerd.log", "kube-proxy.log"]
            .map(|name| {
                let text = fs::read_to_string(self.work.join(name)).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                let last = lines.iter().skip(lines.len().saturating_sub(8));
                format!("{name}:\n{}\n", last.copied().collect::<Vec<_>>().join("\n"))
            })
            .concat()
    }
}

impl Init {
    fn start(namespace: &Namespace, programs: &Path, work: &Path) -> Result<Self> {
        let mut command = namespace.command("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec"]);
        // What the node writes to by paths that can't be set is its own; and so is its BPF file system.
        command.arg(
            "mount -t tmpfs none /run\n\
             mount --bind \"$0/lib\" /var/lib\n\
             mount --bind \"$0/log\" /var/log\n\
             umount -l /sys/fs/bpf\n\
             mount -t bpf -o mode=0700 bpf /sys/fs/bpf\n\
             exec \"$1\" -P",
        );
        command.arg(work).arg(programs.join("node/usr/bin/catatonit"));
        logged(&mut command, &work.join("init.log"))?;
        let keeper = start(&mut command)?;
        let pid = until_some("the node's first process", READY, || {
            let child = children(keeper.pid().as_raw()).first().copied()?;
            let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
            (name == "catatonit\n").then_some(child)
        })?;
        Ok(Self { keeper, pid })
    }

    fn command(&self, namespace: &Namespace, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", namespace.path().display()));
        command.args([&format!("--target={}", self.pid), "--mount", "--pid", "--"]);
        command.arg(program);
        command
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        // The keeper's end is its child's, and that one's all the node's.
        let _ = self.keeper.kill();
        let _ = until("the node's last process to end", READY, || {
            !Path::new(&format!("/proc/{}", self.pid)).exists()
        });
    }
}

impl NodeCgroup {
    /// Makes it in every hierarchy, which the kubelet asks for. The inner door stands at that of the second version.
    fn new() -> Result<Self> {
        let cgroup = Self(Cgroup::new()?);
        let name = cgroup.name()?;
        for hierarchy in hierarchies() {
            let own = hierarchy.join(&name);
            if own.exists() {
                continue;
            }
            fs::create_dir(&own).with_context(|| own.display().to_string())?;
            // A new one of this kind has no processor and no memory.
            for kind in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(of_parent) = fs::read_to_string(hierarchy.join(kind)) {
                    fs::write(own.join(kind), of_parent.trim())?;
                }
            }
        }
        Ok(cgroup)
    }

    fn name(&self) -> Result<String> {
        let name = self.0.path().file_name().and_then(|name| name.to_str());
        Ok(name.context("a name that is no text")?.to_owned())
    }
}

impl Drop for NodeCgroup {
    fn drop(&mut self) {
        let Ok(name) = self.name() else { return };
        let all = hierarchies().into_iter().map(|hierarchy| hierarchy.join(&name));
        // That of the second version removes itself.
        for own in all.filter(|own| own != self.0.path() && own.exists()) {
            let _ = remove_cgroup(&own);
        }
    }
}

fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    text.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Makes a router of it, as the way to its pods.
fn forward(namespace: &Namespace) -> Result<()> {
    namespace.enter(|| -> Result<()> {
        for knob in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{knob}"), "1").with_context(|| knob.to_owned())?;
        }
        Ok(())
    })?
}

/// Puts what a command says behind what is in a file.
pub(super) fn logged(command: &mut Command, file: &Path) -> Result<()> {
    let output = fs::OpenOptions::new().create(true).append(true).open(file)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    Ok(())
}
