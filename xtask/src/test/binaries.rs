//! The finished test programs, and which of them have tests that the ordinary run left out.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::{
    command,
    workspace::{KERNEL_PACKAGE, Workspace},
};

/// A program that cargo built out of tests.
#[derive(Debug, PartialEq, Eq)]
pub struct TestBinary {
    /// The name of the target: the file's name in `tests/`, or the crate's.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// The directory of its package, where cargo starts it.
    pub package_dir: PathBuf,
}

impl TestBinary {
    /// Whether its tests start daemons, by the only way there is: the bed's.
    pub fn starts_a_daemon(&self) -> bool {
        let source = self.package_dir.join("tests").join(&self.name).with_extension("rs");
        fs::read_to_string(source).is_ok_and(|text| text.contains("GuardSetup"))
    }
}

/// Builds all tests as the caller, and finds the programs that have ignored ones.
pub fn with_ignored_tests(workspace: &Workspace) -> anyhow::Result<Vec<TestBinary>> {
    let mut cargo = workspace.cargo("test");
    cargo.args(["--workspace", "--exclude", KERNEL_PACKAGE, "--no-run", "--quiet"]);
    cargo.arg("--message-format=json-render-diagnostics");
    let messages = command::output(&mut cargo)?;
    let mut found = Vec::new();
    for binary in messages.lines().filter_map(parse) {
        let mut list = Command::new(&binary.program);
        list.args(["--list", "--ignored"]).current_dir(&binary.package_dir);
        let list = command::output(&mut list).context("could not list the tests")?;
        if list.lines().any(|line| line.ends_with(": test")) {
            found.push(binary);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Builds some of the network tests as the caller, optimised, for machines that are slow. Returns
/// name and program of each.
pub fn optimised(workspace: &Workspace, names: &[&str]) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut cargo = workspace.cargo("test");
    cargo
        .args(["--package", "ollama-guard-tests", "--release", "--no-run", "--quiet"])
        .arg("--message-format=json-render-diagnostics")
        // As the release binary is built: otherwise cargo would build the library anew each time.
        .env("OLLAMA_GUARD_BPF_OBJECT", workspace.bpf_object());
    for name in names {
        cargo.args(["--test", name]);
    }
    let messages = command::output(&mut cargo)?;
    let built: Vec<TestBinary> = messages.lines().filter_map(parse).collect();
    let program = |name: &&str| {
        let binary = built.iter().find(|binary| binary.name == **name);
        let binary = binary.with_context(|| format!("cargo built no test program {name}"))?;
        Ok(((*name).to_owned(), binary.program.clone()))
    };
    names.iter().map(program).collect()
}

/// One line of cargo's messages, if it is about a finished test program.
fn parse(line: &str) -> Option<TestBinary> {
    // What is built *as* tests: a target that merely *has* tests says so in another place.
    let (_, profile) = line.split_once(r#""profile":{"#)?;
    let is_test = profile.split('}').next()?.ends_with(r#""test":true"#)
        && line.contains(r#""reason":"compiler-artifact""#);
    let program = string(line, "executable").filter(|_| is_test)?;
    let manifest = string(line, "manifest_path")?;
    // The message's first "name" is the target's.
    Some(TestBinary {
        name: string(line, "name")?,
        program: program.into(),
        package_dir: Path::new(&manifest).parent()?.to_path_buf(),
    })
}

/// The value of the first `"key":"value"`. Paths and names have nothing escaped but quotes and
/// backslashes.
fn string(line: &str, key: &str) -> Option<String> {
    let start = format!("\"{key}\":\"");
    let mut rest = line[line.find(&start)? + start.len()..].chars();
    let mut value = String::new();
    loop {
        match rest.next()? {
            '"' => return Some(value),
            '\\' => value.push(rest.next()?),
            c => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: &str = r#"{"reason":"compiler-artifact","package_id":"path+file:///w/tests#a@0.1.0","manifest_path":"/w/tests/Cargo.toml","target":{"kind":["test"],"crate_types":["bin"],"name":"life_cycle","src_path":"/w/tests/tests/life_cycle.rs","edition":"2024","doc":false,"doctest":false,"test":true},"profile":{"opt_level":"0","debuginfo":2,"debug_assertions":true,"overflow_checks":true,"test":true},"features":[],"filenames":["/w/t/life_cycle-1"],"executable":"/w/t/life \"cycle\"-1","fresh":true}"#;

    #[test]
    fn a_test_program_is_found_with_its_package() {
        let expected = TestBinary {
            name: "life_cycle".into(),
            program: r#"/w/t/life "cycle"-1"#.into(),
            package_dir: "/w/tests".into(),
        };
        assert_eq!(parse(TEST), Some(expected));
    }

    #[test]
    fn other_messages_are_none() {
        let library =
            TEST.replace(r#""executable":"/w/t/life \"cycle\"-1""#, r#""executable":null"#);
        assert_eq!(parse(&library), None);
        let program = TEST.replace(r#""test":true},"features""#, r#""test":false},"features""#);
        assert_eq!(parse(&program), None);
        assert_eq!(parse(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(parse("running 3 tests"), None);
    }
}
