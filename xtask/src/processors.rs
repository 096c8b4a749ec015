//! The kernel object on other processors: built as it would be there, and compared.
//!
//! BPF is the same everywhere, but what a program is built from may not be: bindings and the headers that they were
//! made of. If all that the kernel is given is the same to the byte, the object of this machine is the
//! one for the others, too; only its debug information names the flags that it was built with.

use std::{collections::BTreeMap, env, fs, path::Path};

use anyhow::{Context as _, ensure};
use object::{File, Object as _, ObjectSection as _};

use crate::{
    command,
    compiler::{BPF_TARGET, KernelCompiler},
    workspace::{KERNEL_PACKAGE, Workspace},
};

/// The 64-bit little-endian processors that the guard is built for.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// Builds the object for each other processor, and compares it with this one's, which must be built.
pub fn check(workspace: &Workspace, compiler: &KernelCompiler) -> anyhow::Result<()> {
    let here = sections(&workspace.bpf_object())?;
    ensure!(here.contains_key(".text"), "the kernel object has no code");
    for arch in ARCHITECTURES.into_iter().filter(|arch| *arch != env::consts::ARCH) {
        let target = workspace.target().join(format!("bpf-{arch}"));
        let mut cargo = compiler.cargo_build_for(workspace, arch, &target);
        command::run(cargo.args(["--package", KERNEL_PACKAGE, "--bin", KERNEL_PACKAGE]))
            .with_context(|| format!("the kernel side for {arch}"))?;
        let there = target.join(BPF_TARGET).join("release").join(KERNEL_PACKAGE);
        let there = sections(&there)?;
        let names = here.keys().chain(there.keys());
        let differ: Vec<_> = names.filter(|name| here.get(*name) != there.get(*name)).collect();
        ensure!(differ.is_empty(), "for {arch} the kernel is given something else in {differ:?}");
        println!("the kernel is given the same on {arch}: {} sections", here.len());
    }
    Ok(())
}

/// The sections of an object that become programs and maps, with their relocations.
fn sections(path: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let file = File::parse(&*bytes).with_context(|| path.display().to_string())?;
    let mut found = BTreeMap::new();
    for section in file.sections() {
        let name = section.name()?;
        let is_description = ["debug", "BTF"].iter().any(|word| name.contains(word));
        if !name.is_empty() && !is_description {
            found.insert(name.to_owned(), section.data()?.to_vec());
        }
    }
    Ok(found)
}
