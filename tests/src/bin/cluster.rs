//! The chart in a real cluster, as root; `cargo xtask cluster` calls it with what it has built.

use std::{io::Write as _, path::PathBuf};

use anyhow::Result;
use clap::Parser as _;
use ollama_guard_tests::cluster::{Props, play};

/// Plays it, and prints what was seen.
#[derive(clap::Parser)]
struct Arguments {
    /// The directory with helm and kubectl
    #[arg(long)]
    tools: PathBuf,
    /// The directory with Kubernetes' programs
    #[arg(long)]
    programs: PathBuf,
    /// The directory with the images of pods
    #[arg(long)]
    images: PathBuf,
    /// The language model
    #[arg(long)]
    model: PathBuf,
    /// The archive of the guard's image
    #[arg(long)]
    guard: PathBuf,
    /// The archive of the next version's image, called `next`
    #[arg(long)]
    next: PathBuf,
    /// Where files may be made
    #[arg(long)]
    work: PathBuf,
    /// The directory that the pictures are written into
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// After a failure, wait for Enter before everything is taken down
    #[arg(long)]
    hold: bool,
}

fn main() -> Result<()> {
    let Arguments { tools, programs, images, model, guard, next, work, pictures, hold } =
        Arguments::parse();
    let props = Props { tools, programs, images, model, guard, next, work, hold };
    let report = play(&props, &|chapter| {
        // Standard output is for what was seen. Nothing can be done if it can't be told.
        let _ = writeln!(std::io::stderr(), "cluster: {chapter}");
    })?;
    if let Some(directory) = pictures {
        report.write_pictures(&directory)?;
    }
    print!("{report}");
    Ok(())
}
