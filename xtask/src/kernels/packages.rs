//! Debian's kernels: found and downloaded at run time, and unpacked.
//!
//! Everything of apt's is private, under `target/kernels/<suite>/`. Names of kernel packages have the version
//! in them and change every few weeks, so they are asked for each time.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    command,
    mirror::Mirror,
    suite::{Suite, field},
};

/// The package that stands for the newest kernel of a suite. The flavour for virtual machines is
/// a third of the size of the other, and has every driver that the tests need.
const NEWEST: &str = "linux-image-cloud-amd64";
/// What a package with a part of a kernel is called; a version follows.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];

/// A kernel on this machine's disk.
pub struct Kernel {
    /// What `uname -r` will say.
    pub release: String,
    /// The kernel itself.
    pub image: PathBuf,
    /// The directory below which its modules are.
    pub modules: PathBuf,
    /// What was fetched for it in this run, in words.
    pub fetched: String,
}

/// Fetches the newest kernel of a suite, unless it is here already.
pub fn fetch(mirror: &Mirror, suite: &str, directory: &Path) -> anyhow::Result<Kernel> {
    let start = Instant::now();
    let apt = Suite::at(directory);
    let lists = apt.update(mirror, &["deb"], suite)?;
    let packages = resolve(&apt)?;
    let Some((package, version)) = packages.first() else {
        bail!("{NEWEST} of {suite} depends on no kernel");
    };
    let root = directory.join(format!("{package}_{}", version.replace(':', "_")));
    let fetched = if root.is_dir() {
        format!("lists {lists}; packages already here; {}", seconds(start.elapsed()))
    } else {
        let wanted: Vec<_> =
            packages.iter().map(|(package, version)| format!("{package}={version}")).collect();
        let bytes = apt.unpack(&wanted, &root)?;
        let count = packages.len();
        let megabytes = bytes as f64 / 1e6;
        format!("lists {lists}; {count} package(s) {megabytes:.0} MB; {}", seconds(start.elapsed()))
    };
    let mut kernel = find(&root)?;
    kernel.fetched = fetched;
    Ok(kernel)
}

fn seconds(time: Duration) -> String {
    format!("{:.0} s", time.as_secs_f64())
}

/// The packages of the newest kernel with their versions, the one that names it first.
fn resolve(apt: &Suite) -> anyhow::Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut open = vec![NEWEST.to_owned()];
    while let Some(package) = open.pop() {
        let mut show = apt.command("apt-cache");
        let text = command::output(show.args(["show", "--no-all-versions", &package]))?;
        open.extend(parts(&text));
        if package != NEWEST && !found.iter().any(|(known, _)| *known == package) {
            let version = field(&text, "Version").context("a package without a version")?;
            found.push((package, version.to_owned()));
        }
        ensure!(found.len() < 10, "{NEWEST} leads to ever more packages: {found:?}");
    }
    Ok(found)
}

/// The packages with parts of a kernel that a package depends on.
fn parts(show: &str) -> Vec<String> {
    let depends = field(show, "Depends").unwrap_or_default();
    let names = depends.split([',', '|']).filter_map(|part| part.split_whitespace().next());
    names.filter(|name| is_part(name)).map(str::to_owned).collect()
}

fn is_part(name: &str) -> bool {
    PARTS.iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// Finds the kernel in an unpacked directory: its image is in `boot/` or beside its modules.
fn find(root: &Path) -> anyhow::Result<Kernel> {
    for modules in ["lib/modules", "usr/lib/modules"].map(|place| root.join(place)) {
        let Ok(mut releases) = fs::read_dir(&modules) else {
            continue;
        };
        let release = releases.next().context("no modules")??.file_name();
        let release = release.into_string().ok().context("a release that is no text")?;
        let modules = modules.join(&release);
        let places =
            [root.join("boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")];
        if let Some(image) = places.into_iter().find(|place| place.is_file()) {
            return Ok(Kernel { release, image, modules, fetched: String::new() });
        }
    }
    bail!("no kernel with its modules in {}", root.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_may_be_one_package_or_several() {
        let meta = "Package: linux-image-cloud-amd64\nVersion: 6.1.176-1\nDepends: \
                    linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)\n";
        assert_eq!(parts(meta), ["linux-image-6.1.0-50-cloud-amd64"]);
        assert_eq!(field(meta, "Version"), Some("6.1.176-1"));
        let empty = "Depends: dracut | initramfs-tools (>= 0.120) | linux-initramfs-tool, \
                     linux-base-7.2-cloud-amd64 (= 7.2-1), linux-binary-7.2-cloud-amd64, \
                     linux-modules-7.2-cloud-amd64 (= 7.2-1)\n";
        assert_eq!(parts(empty), ["linux-binary-7.2-cloud-amd64", "linux-modules-7.2-cloud-amd64"]);
        assert!(parts("Depends: linux-image-cloud-amd64, kmod\n").is_empty());
    }
}
