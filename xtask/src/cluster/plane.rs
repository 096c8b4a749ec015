//! Kubernetes' own programs, built from Debian's sources, and what they need around them.
//!
//! The sources are of 2021, the last whose Debian package has more than kubectl in it; all that it depends on is in its
//! `vendor` directory. Two things have to be done to them. The Go of that time is not the Go of Debian 12: one library
//! (reflect2) reaches into Go's run time and crashes there, so Debian's newer version takes its place. And the
//! description of the API, which the API server has compiled in, is generated, by a program in the sources.

use std::{
    collections::BTreeSet,
    env, fs, iter,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, ensure};

use super::remove;
use crate::{
    command,
    mirror::Mirror,
    setup::{say, tools::ensure_package},
    suite::{Suite, field},
};

/// Raised when something here gives other programs.
const RECIPE: u32 = 1;
/// The suite that has the sources, and all that goes with them.
const SUITE: &str = "bookworm";
/// The compiler, and the library that is replaced.
const GO: [&str; 3] = ["golang-1.19-go", "golang-1.19-src", "golang-github-modern-go-reflect2-dev"];
/// What a node needs beside: the store, the runtime, its network.
const NODE: [&str; 8] = [
    "etcd-server",
    "containerd",
    "runc",
    "containernetworking-plugins",
    "conntrack",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "catatonit",
];
/// What is built.
const PROGRAMS: [&str; 5] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"];
const IMPORT_PATH: &str = "k8s.io/kubernetes";

/// Builds it unless it is there. Returns the directory that has `bin/` with what was built, and `node/` with
/// what was unpacked.
pub fn ensure(place: &Path) -> anyhow::Result<PathBuf> {
    let plane = place.join("plane");
    let stamp = plane.join("stamp");
    let said = fs::read_to_string(&stamp).unwrap_or_default();
    if said.lines().next() == Some(&first_line()) {
        say(&format!(
            "kubernetes is built already: {}",
            said.lines().skip(1).collect::<Vec<_>>().join(", ")
        ));
        return Ok(plane);
    }
    for (program, package) in
        [("dpkg-source", "dpkg-dev"), ("openssl", "openssl"), ("iptables", "iptables")]
    {
        ensure_package(program, package, "the cluster")?;
    }
    say(
        "building Kubernetes of Debian's sources into target/cluster (once; a quarter of an hour, 3 GB for the while)",
    );
    let start = Instant::now();
    let mirror = Mirror::of_this_machine()?;
    let suite = Suite::at(&place.join(SUITE));
    suite.update(&mirror, &["deb", "deb-src"], SUITE)?;
    let half = place.join("plane.new");
    remove(&half)?;
    let names =
        |packages: &[&str]| packages.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    fs::create_dir_all(&half)?;
    suite.unpack(&names(&NODE), &half.join("node"))?;
    let builder = Builder { place: place.to_path_buf() };
    remove(&builder.go())?;
    suite.unpack(&names(&GO), &builder.go())?;
    let version = builder.sources(&suite)?;
    builder.generate()?;
    for program in PROGRAMS {
        builder.build(program, &half.join("bin"))?;
    }
    let versions = versions(&suite)?;
    fs::write(half.join("stamp"), format!("{}\nkubernetes {version}\n{versions}", first_line()))?;
    remove(&plane)?;
    fs::rename(&half, &plane)?;
    // Compiled packages and sources are of no more use.
    for rest in ["go", "gopath", "gocache"] {
        remove(&place.join(rest))?;
    }
    say(&format!("kubernetes is built, in {} s", start.elapsed().as_secs()));
    Ok(plane)
}

fn first_line() -> String {
    format!("recipe {RECIPE}")
}

/// The versions of what was unpacked, a line each.
fn versions(suite: &Suite) -> anyhow::Result<String> {
    let mut lines = String::new();
    for package in NODE.iter().chain(&GO[..1]) {
        let mut show = suite.command("apt-cache");
        let text = command::output(show.args(["show", "--no-all-versions", package]))?;
        let version = field(&text, "Version").context("a package without a version")?;
        lines.push_str(&format!("{package} {version}\n"));
    }
    Ok(lines)
}

/// Where the sources are, and how Go is called.
struct Builder {
    place: PathBuf,
}

impl Builder {
    fn go(&self) -> PathBuf {
        self.place.join("go")
    }

    /// Where Go looks for them.
    fn tree(&self) -> PathBuf {
        self.place.join("gopath/src").join(IMPORT_PATH)
    }

    /// Fetches and mends the sources. Returns their version.
    fn sources(&self, suite: &Suite) -> anyhow::Result<String> {
        let tree = self.tree();
        remove(&tree)?;
        fs::create_dir_all(tree.parent().context("it has one")?)?;
        let version = suite.unpack_source("kubernetes", &tree)?;
        let library = "github.com/modern-go/reflect2";
        let old = tree.join("vendor").join(library);
        remove(&old)?;
        let mut copy = Command::new("cp");
        copy.arg("--archive").arg(self.go().join("usr/share/gocode/src").join(library)).arg(&old);
        command::run(&mut copy)?;
        Ok(version)
    }

    /// Writes the description of the API, of all packages that ask for it.
    fn generate(&self) -> anyhow::Result<()> {
        let tree = self.tree();
        let generator = self.place.join("gopath/openapi-gen");
        let package = format!("{IMPORT_PATH}/vendor/k8s.io/kube-openapi/cmd/openapi-gen");
        command::run(self.command("build").arg("-o").arg(&generator).arg(package))?;
        let mut grep = Command::new("grep");
        grep.args(["-rl", "--include=*.go", "+k8s:openapi-gen=", "pkg", "staging"])
            .current_dir(&tree);
        let asking = directories(&command::output(&mut grep)?);
        ensure!(!asking.is_empty(), "no package asks for a description of its part of the API");
        let mut generate = self.called(&generator);
        generate.arg("--input-dirs").arg(asking.join(","));
        generate.args(["-p", &format!("{IMPORT_PATH}/pkg/generated/openapi")]);
        generate
            .args(["-O", "zz_generated.openapi", "--output-base"])
            .arg(self.place.join("gopath/src"));
        generate.args(["--go-header-file", "hack/boilerplate/boilerplate.generatego.txt"]);
        generate.arg("--report-filename").arg(self.place.join("gopath/openapi-gen.report"));
        command::run_quietly(&mut generate).context("the description of the API")
    }

    fn build(&self, program: &str, into: &Path) -> anyhow::Result<()> {
        let start = Instant::now();
        // Otherwise it calls itself v0.0.0, which is too old for the chart. It says so in two places.
        let version: String = ["component-base", "client-go/pkg"]
            .map(|place| {
                let package = format!("{IMPORT_PATH}/vendor/k8s.io/{place}/version");
                let set = |name: &str, value: &str| format!(" -X {package}.git{name}={value}");
                [("Version", "v1.20.2"), ("Major", "1"), ("Minor", "20")]
                    .map(|(name, value)| set(name, value))
                    .concat()
            })
            .concat();
        let flags = format!("-s -w{version}");
        let mut build = self.command("build");
        build.args(["-ldflags", &flags, "-o"]).arg(into.join(program));
        command::run(build.arg(format!("{IMPORT_PATH}/cmd/{program}")))?;
        say(&format!("{program}, in {} s", start.elapsed().as_secs()));
        Ok(())
    }

    /// `go VERB`, which finds all that it needs in the sources.
    fn command(&self, verb: &str) -> Command {
        let mut command = self.called(&self.go_root().join("bin/go"));
        command.arg(verb);
        command
    }

    fn go_root(&self) -> PathBuf {
        self.go().join("usr/lib/go-1.19")
    }

    /// A program in the sources that finds Go, and that leaves the machine to others as well.
    fn called(&self, program: &Path) -> Command {
        let mut command = Command::new("nice");
        command.args(["-n", "10"]).arg(program).current_dir(self.tree());
        command.env("GOROOT", self.go_root()).env("GOPATH", self.place.join("gopath"));
        command.env("GOCACHE", self.place.join("gocache")).env("HOME", &self.place);
        // As sources of that time want it: with modules, Go refuses their `vendor`.
        command.env("GO111MODULE", "off").env("CGO_ENABLED", "0");
        command.env("GOMAXPROCS", "1").env("GOFLAGS", "-p=1");
        let path = env::var_os("PATH").unwrap_or_default();
        let places = iter::once(self.go_root().join("bin")).chain(env::split_paths(&path));
        command.env("PATH", env::join_paths(places).unwrap_or(path.clone()));
        command
    }
}

/// The import paths of the directories of these files, of those that are built.
fn directories(files: &str) -> Vec<String> {
    let found: BTreeSet<String> = files
        .lines()
        .filter_map(|file| Some(file.rsplit_once('/')?.0))
        // Examples, and generators.
        .filter(|directory| {
            !["code-generator", "sample-apiserver"].iter().any(|part| directory.contains(part))
        })
        .map(|directory| match directory.strip_prefix("staging/src/") {
            // Where Go sees it, by a link.
            Some(rest) => format!("{IMPORT_PATH}/vendor/{rest}"),
            None => format!("{IMPORT_PATH}/{directory}"),
        })
        .collect();
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_named_once_and_as_go_sees_it() {
        let files = "pkg/apis/abac/v0/doc.go\nstaging/src/k8s.io/api/core/v1/doc.go\n\
                     staging/src/k8s.io/api/core/v1/types.go\nstaging/src/k8s.io/code-generator/a/b.go\n";
        let expected =
            ["k8s.io/kubernetes/pkg/apis/abac/v0", "k8s.io/kubernetes/vendor/k8s.io/api/core/v1"];
        assert_eq!(directories(files), expected);
    }
}
