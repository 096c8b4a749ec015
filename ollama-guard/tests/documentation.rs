//! What the documentation tells people to type is what the program takes, and its links lead somewhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Parser as _;
use ollama_guard::cli::Cli;

/// The pages: the README, and those of `docs/`.
fn pages() -> Vec<(PathBuf, String)> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![package.join("../README.md")];
    let docs = fs::read_dir(package.join("docs")).expect("the pages");
    pages.extend(docs.map(|entry| entry.expect("a page").path()));
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(&path).expect("a page")))
        .collect()
}

/// The lines that somebody may type: behind a prompt in a block of a terminal, and in indented blocks.
fn typed(page: &str) -> Vec<String> {
    let mut typed = Vec::new();
    let mut block: Option<&str> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), block) {
            (Some(kind), None) => block = Some(kind),
            (Some(_), Some(_)) => block = None,
            (None, Some("console")) => {
                let behind = ["$ ", "# "].iter().find_map(|prompt| line.strip_prefix(prompt));
                typed.extend(behind.map(str::to_owned));
            }
            (None, Some(_)) => {}
            (None, None) => typed.extend(line.strip_prefix("    ").map(str::to_owned)),
        }
    }
    // What goes on in the next line.
    typed.join("\n").replace("\\\n", " ").lines().map(str::to_owned).collect()
}

/// The words of each call of the program in a line of a shell.
fn calls(line: &str) -> Vec<Vec<String>> {
    // A remark, and nothing that a name has a `#` in.
    let line = line.split(" # ").next().unwrap_or_default();
    let commands = line.split(['|', ';', '&']);
    let words = commands.filter_map(|command| shlex::split(command.split(" > ").next()?));
    words
        .map(|words| words.into_iter().skip_while(|word| word == "sudo").collect::<Vec<_>>())
        .filter(|words| words.first().is_some_and(|word| word == "ollama-guard"))
        .collect()
}

#[test]
fn every_command_of_the_documentation_is_one_that_the_program_takes() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for (path, text) in pages() {
        for words in typed(&text).iter().flat_map(|line| calls(line)) {
            seen += 1;
            if let Err(error) = Cli::try_parse_from(&words) {
                let first = error.to_string();
                let first = first.lines().next().unwrap_or_default().to_owned();
                wrong.push(format!("{}: `{}`: {first}", path.display(), words.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 40, "only {seen} commands were found");
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut wrong = Vec::new();
    for (path, text) in pages() {
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let file = link.split('#').next().unwrap_or_default();
            if !path.parent().expect("a directory").join(file).exists() {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
