//! Embeds the kernel program, and the commit for `--version`.
//!
//! The kernel program is built by another compiler (`cargo xtask build`), so that plain
//! `cargo build` and `cargo test` work on a machine without one. A binary built before the
//! program has an empty one embedded, which it refuses to load with the way out.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// Names the object to embed; then a missing one is an error.
const OBJECT: &str = "OLLAMA_GUARD_BPF_OBJECT";
/// Says the commit of sources that are not in a work tree.
const COMMIT: &str = "OLLAMA_GUARD_COMMIT";

fn main() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let out_dir = env::var_os("OUT_DIR").ok_or("cargo has set no OUT_DIR")?;
    let embedded = Path::new(&out_dir).join("ollama-guard.bpf.o");
    let object = match env::var_os(OBJECT) {
        Some(path) => demanded_object(Path::new(&path))?,
        None => built_object()?,
    };
    fs::write(&embedded, object).map_err(|error| trouble("write", &embedded, &error))?;
    println!("cargo::rustc-env=OLLAMA_GUARD_COMMIT={}", commit());
    Ok(())
}

/// The object that the caller insists on.
fn demanded_object(path: &Path) -> Result<Vec<u8>, String> {
    println!("cargo::rerun-if-changed={}", path.display());
    let object = fs::read(path).map_err(|error| {
        format!("{}; {OBJECT} names it, so it must be there", trouble("read", path, &error))
    })?;
    if object.is_empty() {
        return Err(format!("{OBJECT} names {}, which is empty", path.display()));
    }
    Ok(object)
}

/// The object where `cargo xtask build` puts it, or an empty one.
fn built_object() -> Result<Vec<u8>, String> {
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo has set no manifest")?;
    let directory = Path::new(&manifest_dir).join("../target/bpf");
    let path = directory.join("ollama-guard.bpf.o");
    match fs::read(&path) {
        Ok(object) if !object.is_empty() => {
            println!("cargo::rerun-if-changed={}", path.display());
            Ok(object)
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(trouble("read", &path, &error))
        }
        _ => {
            // Watching a file that is not there would run this script, and so build the crate, at
            // every call of cargo. The directory changes when the file appears.
            let _ = fs::create_dir_all(&directory);
            println!("cargo::rerun-if-changed={}", directory.display());
            println!(
                "cargo::warning=this binary has no kernel program and cannot guard anything; \
                 `cargo xtask build` builds one that has"
            );
            Ok(Vec::new())
        }
    }
}

/// The commit of the work tree, or "unknown": a source archive has none, but whoever builds it may know.
fn commit() -> String {
    println!("cargo::rerun-if-env-changed={COMMIT}");
    if let Ok(commit) = env::var(COMMIT) {
        return commit;
    }
    for name in ["HEAD", "logs/HEAD"] {
        // In a linked work tree these are not where one would think.
        let path = git(&["rev-parse", "--path-format=absolute", "--git-path", name]);
        if let Some(path) = path.map(PathBuf::from).filter(|path| path.exists()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn trouble(verb: &str, path: &Path, error: &io::Error) -> String {
    format!("could not {verb} {}: {error}", path.display())
}
