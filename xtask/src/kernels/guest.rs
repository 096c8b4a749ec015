//! What a guest consists of: a shell, the tools that the tests call, the guard and the tests.
//!
//! No disk and no network: one archive that the kernel unpacks into memory.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use super::{archive::Archive, packages::Kernel};
use crate::command::{ask, find_program, output, run};

/// Programs of this machine, with the libraries that they need.
const TOOLS: [&str; 5] = ["busybox", "ip", "tc", "nsenter", "bpftool"];

/// Modules in the order in which they need each other. Some kernels have some of them built in.
const MODULES: [&str; 10] = [
    "llc",
    "stp",
    "bridge",
    "veth",
    "tun",
    "udp_tunnel",
    "ip6_udp_tunnel",
    "vxlan",
    "sch_ingress",
    "cls_bpf",
];

/// How much slower an emulated processor is, for the tests' patience.
const SLOWNESS: u32 = 8;

/// Where the guard is in the guest.
const GUARD: &str = "/bin/ollama-guard";

/// What to do in the guest.
pub enum Work<'a> {
    /// Run the privileged tests of these programs without some of them, and compare costs with the
    /// record or not.
    Tests { programs: &'a [(String, PathBuf)], record: bool, without: &'a [&'a str] },
    /// Start the guard, which is to refuse.
    Refusal,
}

/// Builds the archive for a kernel.
pub fn build(kernel: &Kernel, guard: &Path, work: &Work<'_>, to: &Path) -> anyhow::Result<()> {
    let mut archive = Archive::default();
    for directory in ["proc", "sys", "dev", "run", "tmp", "etc", "modules", "tests"] {
        archive.directory(directory);
    }
    for tool in TOOLS {
        let path = find_program(tool).with_context(|| format!("{tool} is not installed"))?;
        archive.file(format!("bin/{tool}"), &read(&path)?);
        libraries(&mut archive, &path)?;
    }
    archive.file(GUARD, &stripped(guard, to)?);
    libraries(&mut archive, guard)?;
    if let Work::Tests { programs, .. } = work {
        for (name, program) in *programs {
            archive.file(format!("tests/{name}"), &stripped(program, to)?);
            libraries(&mut archive, program)?;
        }
    }
    let mut present = Vec::new();
    for module in MODULES {
        if let Some(content) = module_content(kernel, module)? {
            archive.file(format!("modules/{module}.ko"), &content);
            present.push(module);
        }
    }
    // The daemon looks up who asks it.
    archive.file("etc/passwd", b"root:x:0:0:root:/:/bin/busybox\n");
    archive.file("etc/group", b"root:x:0:\n");
    archive.file("init", init(&present, work).as_bytes());
    archive.write(to)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// A program without what only debuggers read, which is nine tenths of it.
fn stripped(program: &Path, beside: &Path) -> anyhow::Result<Vec<u8>> {
    let small = beside.with_extension("stripped");
    run(Command::new("strip").arg("-o").arg(&small).arg(program))?;
    let content = read(&small)?;
    fs::remove_file(&small)?;
    Ok(content)
}

/// Adds what `ldd` lists, at the same paths. A static program has nothing.
fn libraries(archive: &mut Archive, program: &Path) -> anyhow::Result<()> {
    let listed = ask(Command::new("ldd").arg(program)).unwrap_or_default();
    for library in paths(&listed) {
        archive.file(&library, &read(&library)?);
    }
    Ok(())
}

/// `libc.so.6 => /lib/libc.so.6 (0x...)` and `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn paths(ldd: &str) -> Vec<PathBuf> {
    let words = ldd.split_whitespace();
    words.filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// A module, decompressed: a guest's `insmod` reads nothing else. `None` if it is built in.
fn module_content(kernel: &Kernel, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let builtin = fs::read_to_string(kernel.modules.join("modules.builtin")).unwrap_or_default();
    if builtin.lines().any(|line| line.ends_with(&format!("/{name}.ko"))) {
        return Ok(None);
    }
    let Some(path) = find_module(&kernel.modules.join("kernel"), name)? else {
        bail!("the kernel {} has no module {name}", kernel.release);
    };
    let decompressor = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return read(&path).map(Some),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => bail!("{} is compressed in a way that is not known", path.display()),
    };
    let plain = path.with_extension("plain");
    let file = fs::File::create(&plain)?;
    run(Command::new(decompressor).arg("-dc").arg(&path).stdout(file))?;
    let content = read(&plain)?;
    fs::remove_file(&plain)?;
    Ok(Some(content))
}

fn find_module(directory: &Path, name: &str) -> anyhow::Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory).with_context(|| format!("{}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find_module(&path, name)? {
                return Ok(Some(found));
            }
            continue;
        }
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        if file.strip_prefix(name).is_some_and(|rest| rest == ".ko" || rest.starts_with(".ko.")) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The first program of the guest. Its own words go to the second serial line, one mark at the
/// begin and one at the end of each step; the kernel's go to the first.
fn init(modules: &[&str], work: &Work<'_>) -> String {
    let mut script = String::from(
        "#!/bin/busybox sh\n\
         export PATH=/bin\n\
         for fs in proc:/proc sysfs:/sys devtmpfs:/dev bpf:/sys/fs/bpf tmpfs:/run tmpfs:/tmp; do\n\
         /bin/busybox mount -t ${fs%%:*} none ${fs#*:}\n\
         done\n\
         /bin/busybox mkdir -p /run/netns\n\
         exec >/dev/ttyS1 2>&1 </dev/null\n\
         now() { read now rest </proc/uptime; }\n\
         begin() { now; echo \"@begin $1 $now\"; }\n\
         end() { status=$?; now; echo; echo \"@end $1 $status $now\"; }\n\
         begin modules\n",
    );
    for module in modules {
        let _ = writeln!(script, "/bin/busybox insmod /modules/{module}.ko || exit 1");
    }
    script.push_str("end modules\n/bin/ip link set lo up\n");
    match work {
        Work::Tests { programs, record, without } => {
            let skip: String = without.iter().map(|test| format!(" --skip {test}")).collect();
            let _ = writeln!(script, "export OLLAMA_GUARD_BINARY={GUARD} RUST_BACKTRACE=0");
            let _ = writeln!(script, "export OLLAMA_GUARD_TEST_SLOWNESS={SLOWNESS}");
            if *record {
                script.push_str("export OLLAMA_GUARD_RECORD_BUDGET=1\n");
            }
            for (name, _) in *programs {
                // One after the other: there is one processor.
                let _ = writeln!(
                    script,
                    "begin {name}\n/tests/{name} --ignored --test-threads 1 --show-output{skip}\n\
                     end {name}"
                );
            }
        }
        Work::Refusal => {
            let _ = writeln!(
                script,
                "/bin/ip link add door type veth peer name out\n/bin/ip link set door up\n\
                 begin refusal\n{GUARD} run --interface door --allow 192.0.2.10\nend refusal\n\
                 begin left\n/bin/bpftool prog show\n/bin/busybox find /sys/fs/bpf -mindepth 1\n\
                 end left"
            );
        }
    }
    script.push_str("begin poweroff\n/bin/busybox poweroff -f\n");
    script
}

/// What the emulator calls itself.
pub fn emulator() -> anyhow::Result<String> {
    let text = output(Command::new(super::boot::EMULATOR).arg("--version"))?;
    let line = text.lines().next().unwrap_or_default();
    Ok(line.trim_start_matches("QEMU emulator version ").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_ldd_gives_a_path_for() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            paths(ldd),
            [Path::new("/lib/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
        assert!(paths("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn every_step_has_its_two_marks() {
        let programs = [("kernel".to_owned(), PathBuf::from("/t/kernel-1"))];
        for work in
            [Work::Tests { programs: &programs, record: true, without: &["slow"] }, Work::Refusal]
        {
            let script = init(&["veth"], &work);
            let steps = |mark: &str| -> Vec<String> {
                let lines = script.lines().filter_map(|line| line.strip_prefix(mark));
                lines.filter(|name| *name != "poweroff").map(str::to_owned).collect()
            };
            assert_eq!(steps("begin "), steps("end "));
            assert!(script.ends_with("poweroff -f\n"));
        }
    }
}
