//! What a person reads when something is wrong.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use ollama_guard_tests::{
    bed::{Bed, Finished, GuardSetup, SERVER_DOOR, guard_binary, run},
    policy::{FRIEND4, FRIEND6},
};

const PATIENCE: Duration = Duration::from_secs(10);

fn guard_for_the_friend() -> GuardSetup {
    GuardSetup::of(SERVER_DOOR).attach("native").allow(FRIEND4).allow(FRIEND6)
}

/// Every error that a person meets is a sentence or two with the way out, and exit status 2.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn errors_are_for_people() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard_for_the_friend().prepare(&bed.server.namespace)?;
    let run_with = |arguments: &[&str]| -> Result<String> {
        let mut command = guard.run_command();
        command.args(arguments);
        told(&run(&mut command, PATIENCE)?)
    };
    let cases = [
        (run_with(&["--interface", "eth9"])?, "there is no interface eth9; there are: "),
        (run_with(&["--interface", "lo"])?, "can't be guarded"),
        (run_with(&["--port", "70000"])?, "70000"),
        (run_with(&["--attach", "turbo"])?, "turbo"),
        (run_with(&["--allow", "10.1.2.3/8"])?, "10.0.0.0/8"),
        (run_with(&["--allow", "0.0.0.0/0"])?, "--anyone"),
        (run_with(&["--config", "/nonexistent/guard.toml"])?, "/nonexistent/guard.toml"),
        (told(&guard.cli(&["allow", "add", "192.0.2.1"])?)?, "ollama-guard run"),
        (told(&guard.cli(&["events"])?)?, "ollama-guard run"),
        (told(&guard.cli(&["explain", "192.0.2.1"])?)?, "ollama-guard run"),
    ];
    for (text, hint) in &cases {
        ensure!(text.contains(hint), "no {hint:?} in: {text}");
    }
    off_bpffs(&bed)?;
    someone_elses_directories(&bed)?;
    without_root(&bed)
}

fn off_bpffs(bed: &Bed) -> Result<()> {
    let guard = guard_for_the_friend().prepare(&bed.server.namespace)?;
    let mut command = guard.run_command();
    let text = told(&run(command.args(["--pin-dir", "/tmp/og-no-bpffs"]), PATIENCE)?)?;
    ensure!(text.contains("mount -t bpf"), "{text}");
    let mut command = guard.run_command();
    let text = told(&run(command.args(["--pin-dir", "/sys/fs/bpf"]), PATIENCE)?)?;
    ensure!(text.contains("is the root of a BPF file system"), "{text}");
    Ok(())
}

/// Directories that are no guard's, or another's.
fn someone_elses_directories(bed: &Bed) -> Result<()> {
    let guard = guard_for_the_friend().prepare(&bed.server.namespace)?;
    let home = tempfile::tempdir()?;
    for name in ["next/precious", "v4/thesis", "links/xdp-7"] {
        fs::create_dir_all(home.path().join(name))?;
    }
    let mut command = bed.server.namespace.command(&guard_binary()?);
    command.arg("detach").arg("--pin-dir").arg(home.path()).arg("--socket").arg(guard.socket());
    let text = told(&run(&mut command, PATIENCE)?)?;
    ensure!(text.contains("not on a BPF file system"), "{text}");
    ensure!(home.path().join("next/precious").exists(), "detach removed what is not ours");

    let first = guard_for_the_friend().start(&bed.server.namespace)?;
    let mut command = guard.run_command();
    let text = told(&run(command.arg("--state-dir").arg(first.state_dir()), PATIENCE)?)?;
    ensure!(text.contains("keeps its rules in") && text.contains("--state-dir"), "{text}");
    Ok(())
}

fn without_root(bed: &Bed) -> Result<()> {
    let guard = guard_for_the_friend().prepare(&bed.server.namespace)?;
    let directory = tempfile::tempdir()?;
    let binary = directory.path().join("ollama-guard");
    fs::copy(guard_binary()?, &binary)?;
    Command::new("chmod").arg("0755").args([directory.path(), &binary]).status()?;
    let state = directory.path().join("state");
    fs::create_dir(&state)?;
    nix::unistd::chown(&state, Some(65_534.into()), Some(65_534.into()))?;
    let mut command = bed.server.namespace.command(Path::new("setpriv"));
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "-all"])
        .arg(&binary)
        .args(["run", "--interface", SERVER_DOOR, "--state-dir"])
        .arg(&state)
        .arg("--socket")
        .arg(state.join("sock"))
        .arg("--pin-dir")
        .arg(guard.pin_dir());
    let text = told(&run(&mut command, PATIENCE)?)?;
    ensure!(text.contains("CAP_BPF") && text.contains("run as root"), "{text}");
    stranger_at_the_socket(bed, &binary)
}

/// Somebody without a right to the socket of a running guard.
fn stranger_at_the_socket(bed: &Bed, binary: &Path) -> Result<()> {
    let guard = guard_for_the_friend().start(&bed.server.namespace)?;
    let mut command = bed.server.namespace.command(Path::new("setpriv"));
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(binary)
        .args(["allow", "add", "192.0.2.99", "--socket"])
        .arg(guard.socket());
    let text = told(&run(&mut command, PATIENCE)?)?;
    ensure!(text.contains("sudo") || text.contains("group"), "{text}");
    ensure!(!guard.done(&["allow", "list"])?.contains("192.0.2.99"), "a stranger edited the rules");
    Ok(())
}

/// The last line of an error: not long, not a debug dump, and with exit status 2.
fn told(finished: &Finished) -> Result<String> {
    ensure!(finished.code == Some(2), "exit status 2 was expected: {finished:?}");
    let text = finished.stderr.clone();
    let error = text.rsplit("ollama-guard: ").next().unwrap_or_default();
    ensure!(error.lines().count() <= 3 && error.len() < 600, "too long: {error}");
    for noise in ["Os {", "Error(", "stack backtrace", "panicked"] {
        ensure!(!text.contains(noise), "{noise:?} in: {text}");
    }
    Ok(text)
}
