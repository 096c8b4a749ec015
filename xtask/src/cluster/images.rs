//! The images that run in the cluster beside the guard's: a pause program, and a real LLM server with a client.
//!
//! The server is llama.cpp of Debian's newest suite with the libraries of that suite, in an image of its own, so that it
//! does not matter what the machine has. None of them is fetched from a registry of images.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use super::remove;
use crate::{command, mirror::Mirror, setup::say, suite::Suite};

/// Raised when something here gives other images.
const RECIPE: &str = "recipe 1\n";
/// The suite that has the server.
const SUITE: &str = "sid";
/// The server and its libraries; and what clients in pods ask with.
const SERVER: [&str; 11] = [
    "llama.cpp-tools",
    "libllama0",
    "libggml0",
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "libgomp1",
    "libssl3t64",
    "zlib1g",
    "libzstd1",
    "busybox",
];
/// The server's libraries that are not where the loader looks.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu/llama";
/// What it computes with; this one runs on every x86-64 processor since 2013.
const BACKEND: &str = "/usr/lib/x86_64-linux-gnu/ggml/backends0/libggml-cpu-haswell.so";

/// Builds them unless they are there. Returns the directory with an archive of each.
pub fn ensure(place: &Path, plane: &Path, podman: &Path) -> anyhow::Result<PathBuf> {
    let images = place.join("images");
    if fs::read_to_string(images.join("stamp")).is_ok_and(|stamp| stamp == RECIPE) {
        return Ok(images);
    }
    say("llama.cpp of Debian's newest suite, and two images (12 MB to fetch)");
    let half = place.join("images.new");
    remove(&half)?;
    let node = plane.join("node");
    let context = |name: &str| -> anyhow::Result<PathBuf> {
        let context = half.join(name);
        fs::create_dir_all(&context)?;
        Ok(context)
    };
    let pause = context("pause")?;
    fs::copy(node.join("usr/bin/catatonit"), pause.join("pause"))?;
    server(place, &context("llm")?.join("root"))?;
    for (name, text) in [
        ("pause", "COPY pause /pause\nENTRYPOINT [\"/pause\", \"-P\"]\n".to_owned()),
        (
            "llm",
            format!(
                "COPY root /\nENV LD_LIBRARY_PATH={LIBRARIES} GGML_BACKEND_PATH={BACKEND}\n\
                 ENTRYPOINT [\"/usr/bin/llama-server\"]\n"
            ),
        ),
    ] {
        pack(podman, &half, name, &format!("FROM scratch\n{text}"))?;
    }
    for rest in ["pause", "llm", "storage", "run", "tmp"] {
        remove(&half.join(rest))?;
    }
    fs::write(half.join("stamp"), RECIPE)?;
    remove(&images)?;
    fs::rename(&half, &images)?;
    Ok(images)
}

/// The file system of the server's image.
fn server(place: &Path, root: &Path) -> anyhow::Result<()> {
    let suite = Suite::at(&place.join(SUITE));
    suite.update(&Mirror::of_this_machine()?, &["deb"], SUITE)?;
    suite.unpack(&SERVER.map(str::to_owned), root)?;
    for (link, target) in [("lib", "usr/lib"), ("lib64", "usr/lib64"), ("bin", "usr/bin")] {
        if !root.join(link).exists() {
            symlink(target, root.join(link))?;
        }
    }
    for unwanted in ["usr/share", "usr/include"] {
        remove(&root.join(unwanted))?;
    }
    Ok(fs::create_dir_all(root.join("tmp"))?)
}

/// Builds one image and packs it as `NAME.tar`.
fn pack(podman: &Path, half: &Path, name: &str, containerfile: &str) -> anyhow::Result<()> {
    let context = half.join(name);
    let file = context.join("Containerfile");
    fs::write(&file, containerfile)?;
    let tag = format!("localhost/{name}:test");
    let called = || {
        let mut command = Command::new(podman);
        command.arg("--root").arg(half.join("storage")).arg("--runroot").arg(half.join("run"));
        command.arg("--tmpdir").arg(half.join("tmp"));
        command
    };
    let mut build = called();
    build.args(["build", "--quiet", "--tag", &tag, "--file"]).arg(&file).arg(&context);
    command::run_quietly(&mut build).with_context(|| format!("the image {tag}"))?;
    let mut save = called();
    save.args(["save", "--quiet", "--format", "oci-archive", "--output"]);
    command::run_quietly(save.arg(half.join(format!("{name}.tar"))).arg(&tag))
}
