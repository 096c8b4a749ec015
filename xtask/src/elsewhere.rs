//! The sources once more, in another place: `target/elsewhere`.
//!
//! Built there as they are, they show that the kernel object is the same wherever it is built. With
//! another layout version written into them, they give the tests a guard to upgrade to and back.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};

use crate::{
    build, command,
    compiler::KernelCompiler,
    workspace::{KERNEL_PACKAGE, Workspace},
};

/// What is copied of the work tree; in directories, without [`LEFT_OUT`].
const SOURCES: [&str; 13] = [
    ".cargo",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "ollama-guard",
    "ollama-guard-common",
    "ollama-guard-ebpf",
    "tests",
    "xtask",
];
/// A workspace of its own that takes no part in a build.
const LEFT_OUT: &str = "fuzz";

/// Lines of the sources that make another guard: file, how the line begins, and the number there.
const EDITS: [Edit; 3] = [
    Edit {
        file: "ollama-guard-common/src/abi.rs",
        line: "pub const ABI_VERSION: u32 = ",
        end: ";",
    },
    // A map of another size: whoever took it for the old one would be refused by it.
    Edit {
        file: "ollama-guard-common/src/abi.rs",
        line: "pub const MAX_ADDRESSES: u32 = ",
        end: ";",
    },
    // Other crates to cargo, which tells the results of two builds apart by name and version.
    Edit { file: "Cargo.toml", line: "version = \"0.1.", end: "\"" },
];

/// A line with a number that is raised by one.
struct Edit {
    file: &'static str,
    line: &'static str,
    end: &'static str,
}

/// Builds the kernel object in another place, with nothing from an earlier build, and makes sure
/// that it is the same, and that the binary says so of the one it carries.
pub fn same_object(workspace: &Workspace, compiler: &KernelCompiler) -> anyhow::Result<()> {
    let elsewhere = copy(workspace)?;
    let cold = elsewhere.bpf_target();
    if cold.exists() {
        fs::remove_dir_all(&cold)
            .with_context(|| format!("could not remove {}", cold.display()))?;
    }
    build::kernel_side(&elsewhere, compiler)?;
    let (here, there) = (workspace.bpf_object(), elsewhere.bpf_object());
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    ensure!(
        read(&here)? == read(&there)?,
        "the same sources gave two kernel objects: {} and {} differ",
        here.display(),
        there.display()
    );
    let said = version(workspace)?;
    let counted = sha256(&there)?;
    ensure!(
        said.contains(&counted),
        "`ollama-guard --version --verbose` does not name the object's hash {counted}:\n{said}"
    );
    println!("{said}the same object was built in {}", elsewhere.root().display());
    Ok(())
}

fn version(workspace: &Workspace) -> anyhow::Result<String> {
    let binary = workspace.release_binary("ollama-guard");
    command::output(std::process::Command::new(binary).args(["--version", "--verbose"]))
}

/// By another program than ours, so that the binary is not asked about itself.
fn sha256(file: &Path) -> anyhow::Result<String> {
    let line = command::output(std::process::Command::new("sha256sum").arg(file))?;
    let hash = line.split(' ').next().unwrap_or_default();
    ensure!(hash.len() == 64, "sha256sum printed {line:?}");
    Ok(hash.to_owned())
}

/// The sources of the next version, whose maps have another layout.
pub fn next_version(workspace: &Workspace) -> anyhow::Result<Workspace> {
    let elsewhere = copy(workspace)?;
    for edit in &EDITS {
        let file = elsewhere.root().join(edit.file);
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        build::write_if_different(&file, edit.applied_to(&text)?.as_bytes())?;
    }
    Ok(elsewhere)
}

/// Builds a guard of the next layout version: kernel object and binary.
pub fn other_layout(workspace: &Workspace, compiler: &KernelCompiler) -> anyhow::Result<()> {
    let elsewhere = next_version(workspace)?;
    build::kernel_side(&elsewhere, compiler)?;
    // Dependencies are the same and are not compiled once more; what comes out is kept apart.
    let mut cargo = elsewhere.cargo("build");
    cargo
        .args(["--workspace", "--exclude", KERNEL_PACKAGE, "--bin", "ollama-guard"])
        .env("CARGO_BUILD_BUILD_DIR", workspace.target())
        .env("OLLAMA_GUARD_BPF_OBJECT", elsewhere.bpf_object());
    command::run(&mut cargo).context("the user side of another layout version")
}

/// The guard that [`other_layout`] builds.
pub fn other_binary(workspace: &Workspace) -> std::path::PathBuf {
    place(workspace).target().join("debug/ollama-guard")
}

fn place(workspace: &Workspace) -> Workspace {
    workspace.copied_to(workspace.target().join("elsewhere"))
}

impl Edit {
    /// The text with this one line changed.
    fn applied_to(&self, text: &str) -> anyhow::Result<String> {
        let mut raised = 0;
        let lines: Vec<String> = text
            .lines()
            .map(|line| {
                let number =
                    line.strip_prefix(self.line).and_then(|rest| rest.strip_suffix(self.end));
                let Some(number) = number.and_then(|number| number.parse::<u32>().ok()) else {
                    return line.to_owned();
                };
                raised += 1;
                format!("{}{}{}", self.line, number + 1, self.end)
            })
            .collect();
        let Self { file, line, end } = self;
        ensure!(raised == 1, "{file} has {raised} lines `{line}N{end}` instead of one");
        Ok(lines.join("\n") + "\n")
    }
}

/// Copies the sources as they are now. What has not changed keeps its time, so that it is not
/// built again.
pub fn copy(workspace: &Workspace) -> anyhow::Result<Workspace> {
    let elsewhere = place(workspace);
    fs::create_dir_all(elsewhere.root())?;
    for source in SOURCES {
        copy_tree(&workspace.root().join(source), &elsewhere.root().join(source))?;
    }
    Ok(elsewhere)
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    let trouble = || format!("could not copy {}", from.display());
    if from.is_file() {
        return build::write_if_different(to, &fs::read(from).with_context(trouble)?);
    }
    fs::create_dir_all(to).with_context(trouble)?;
    let mut wanted = Vec::new();
    for entry in fs::read_dir(from).with_context(trouble)? {
        let name = entry.with_context(trouble)?.file_name();
        if name != LEFT_OUT {
            copy_tree(&from.join(&name), &to.join(&name))?;
            wanted.push(name);
        }
    }
    // What is gone from the sources would be compiled on.
    for entry in fs::read_dir(to).with_context(trouble)? {
        let entry = entry.with_context(trouble)?;
        if wanted.contains(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
            .with_context(trouble)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_changed_where_it_stands_and_nowhere_else() {
        let edit = Edit { file: "abi.rs", line: "const VERSION: u32 = ", end: ";" };
        let text = "//! 2\nconst VERSION: u32 = 2;\nconst OTHER: u32 = 2;\n";
        let raised = edit.applied_to(text).expect("it has the line");
        assert_eq!(raised, text.replace("VERSION: u32 = 2", "VERSION: u32 = 3"));
        assert!(edit.applied_to("const OTHER: u32 = 2;\n").is_err());
        assert!(edit.applied_to(&format!("{text}{text}")).is_err());
    }

    #[test]
    fn every_line_stands_where_it_is_looked_for() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for edit in &EDITS {
            let text = fs::read_to_string(root.join(edit.file)).expect("it is there");
            edit.applied_to(&text).expect("it has the line once");
        }
    }
}
