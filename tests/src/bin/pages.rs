//! Manual pages and completions of the command line, out of its own definition: `pages DIRECTORY`.
//!
//! A program of its own, so that what runs as root carries no generator of manuals.

use std::{env, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use clap::CommandFactory as _;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use ollama_guard::cli::Cli;

const NAME: &str = "ollama-guard";
/// Commands of the administrator's.
const SECTION: &str = "8";
/// Those that packages have places for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [directory] = arguments.as_slice() else { bail!("usage: pages DIRECTORY") };
    let directory = Path::new(directory);
    let (manuals, completions) = (directory.join("man"), directory.join("completions"));
    for directory in [&manuals, &completions] {
        fs::create_dir_all(directory).with_context(|| format!("{}", directory.display()))?;
    }
    for shell in SHELLS {
        generate_to(shell, &mut Cli::command(), NAME, &completions)?;
    }
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write_manuals(&command, NAME, &manuals)
}

/// One page for each command, and for each of its commands.
fn write_manuals(command: &clap::Command, name: &str, directory: &Path) -> Result<()> {
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section(SECTION)
        .source(concat!("ollama-guard ", env!("CARGO_PKG_VERSION")))
        .manual("System administration");
    let mut text = Vec::new();
    man.render(&mut text)?;
    let file = directory.join(format!("{name}.{SECTION}"));
    fs::write(&file, text).with_context(|| format!("could not write {}", file.display()))?;
    for subcommand in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        let name = format!("{name}-{}", subcommand.get_name());
        write_manuals(subcommand, &name, directory)?;
    }
    Ok(())
}
