//! One boot of a guest, from its start to its own switching off.
//!
//! Emulated, never accelerated: `/dev/kvm` may be there and not work. The guest's clock is the
//! machine's: one that counts instructions would be independent of a busy machine, but makes the
//! guest several times slower, and the life cycle take hours; the tests have patience instead. How a
//! guest ended is not judged here: QEMU's exit status is 0 after a panic of the guest, too. What
//! counts is what the guest printed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// The emulator's program.
pub const EMULATOR: &str = "qemu-system-x86_64";

/// Without cmpxchg16b: QEMU 7.2 emulates it in a way that Linux 6.12 sometimes crashes on.
const PROCESSOR: &str = "max,-cx16";

const MEGABYTES: &str = "2048";

/// Longer than any guest has needed on a busy machine.
const LIMIT: Duration = Duration::from_secs(120 * 60);

/// The two serial lines of a guest.
pub struct Said {
    /// What the tests said.
    pub results: String,
    /// What the kernel said.
    pub console: String,
    /// From power on to power off.
    pub wall: Duration,
}

/// Boots, and waits for the end.
pub fn boot(image: &Path, archive: &Path, directory: &Path) -> anyhow::Result<Said> {
    let line = |name: &str| directory.join(name);
    let (console, results) = (line("console.log"), line("results.log"));
    let serial = |path: &PathBuf| format!("file:{}", path.display());
    let start = Instant::now();
    let mut emulator = Command::new(EMULATOR);
    emulator
        .args(["-accel", "tcg,thread=single"])
        .args(["-cpu", PROCESSOR, "-smp", "1", "-m", MEGABYTES])
        .args(["-display", "none", "-monitor", "none", "-no-reboot", "-net", "none"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(archive)
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .args(["-serial", &serial(&console), "-serial", &serial(&results)])
        .stdin(Stdio::null());
    let mut child = emulator.spawn().with_context(|| format!("starting {EMULATOR}"))?;
    let ended = loop {
        match child.try_wait()? {
            Some(_) => break true,
            None if start.elapsed() > LIMIT => break false,
            None => thread::sleep(Duration::from_millis(200)),
        }
    };
    if !ended {
        child.kill()?;
        child.wait()?;
    }
    let read = |path: &PathBuf| -> anyhow::Result<String> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    };
    let said = Said { results: read(&results)?, console: read(&console)?, wall: start.elapsed() };
    if !ended {
        bail!(
            "the guest was still at work after {} minutes; see {}",
            LIMIT.as_secs() / 60,
            results.display()
        );
    }
    Ok(said)
}
