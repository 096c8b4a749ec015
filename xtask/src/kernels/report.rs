//! The table: what each kernel did, for the terminal and for the documentation.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;

use super::{chosen::LEFT_OUT, guest, results};
use crate::{command, workspace::Workspace};

/// What one kernel did.
#[derive(Debug, Default)]
pub struct Row {
    /// Its release, or what was wanted of it if there is none.
    pub kernel: String,
    /// The suite it is from.
    pub suite: &'static str,
    /// Whether the programs load.
    pub loads: String,
    /// Lines of the record.
    pub budget: Vec<String>,
    /// Packets of the table.
    pub packets: BTreeMap<String, results::Packets>,
    /// Tests that passed, of all, by test program, and seconds of the guest's clock.
    pub tests: Vec<(String, usize, usize, f64)>,
    /// Tests that this kernel has nothing for.
    pub without: &'static [&'static str],
    /// From power on to power off.
    pub wall: Duration,
    /// What is wrong, one thing a line.
    pub problems: Vec<String>,
}

impl Row {
    /// The cells, in the order of the headings.
    fn cells(&self) -> [String; 7] {
        let verified = results::verified(&self.budget);
        let count = |variant: &str| {
            let of = |start: &str| verified.get(&format!("{variant}/{start}"));
            match (of("link"), of("network")) {
                (Some(link), Some(network)) => format!("{link} / {network}"),
                _ => "-".into(),
            }
        };
        let in_kernel = |name: &str| {
            self.packets.get(name).map_or("-".into(), |packets| packets.in_kernel.to_string())
        };
        let sum = |of: fn(&results::Packets) -> u64| self.packets.values().map(of).sum::<u64>();
        let (passed, all) = self
            .tests
            .iter()
            .fold((0, 0), |(passed, all), (_, more, of, _)| (passed + more, all + of));
        let host = format!(
            "{} under 14 bytes, {} short linear part, {} over a page, {} cut IP header",
            sum(|packets| packets.too_short),
            sum(|packets| packets.uncut),
            sum(|packets| packets.too_long),
            sum(|packets| packets.cut_header)
        );
        let packets = ["usual", "one-buffer", "cut", "tc"].map(in_kernel).join(" / ");
        let is_empty = self.packets.is_empty();
        [
            format!("{} ({})", self.kernel, self.suite),
            self.loads.clone(),
            if verified.is_empty() {
                "-".into()
            } else {
                let tc = ["tc-link", "tc-network"].map(|program| {
                    verified.get(&format!("usual/{program}")).map_or("-".into(), u64::to_string)
                });
                format!("{}; {}; {}", count("usual"), count("one-buffer"), tc.join(" / "))
            },
            if is_empty { "-".into() } else { packets },
            if is_empty { "-".into() } else { host },
            if self.tests.is_empty() { "-".into() } else { format!("{passed} of {all}") },
            format!("{:.0} s", self.wall.as_secs_f64()),
        ]
    }
}

const HEADINGS: [&str; 7] = [
    "kernel (suite)",
    "loads",
    "verified instructions",
    "packets in the kernel",
    "packets on the host",
    "tests passed",
    "wall time",
];

/// The table, in Markdown with its columns aligned.
pub fn table(rows: &[Row]) -> String {
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let widths: Vec<usize> = (0..HEADINGS.len())
        .map(|column| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0))
        .collect();
    lines.insert(1, std::array::from_fn(|column| "-".repeat(widths[column])));
    let mut text = String::new();
    for cells in lines {
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
    }
    text
}

/// The page of the documentation.
pub fn page(workspace: &Workspace, rows: &[Row]) -> anyhow::Result<String> {
    let git = |arguments: &[&str]| {
        command::output(Command::new("git").current_dir(workspace.root()).args(arguments))
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.trim().is_empty();
    let mut text = format!(
        "# Kernels\n\n\
         Written by `cargo xtask kernels --record` on {} at commit {}{}, QEMU {}, an emulated \
         processor on a shared machine.\n\n\
         Each kernel is Debian's newest of its suite. The packets are the rows of the packet table: \
         through the programs that a daemon loads / the pair without multi-buffer awareness / the \
         usual ones with the frame cut around each border of a header / the programs at TC. Verified \
         instructions are those of the link / network program: usual; without multi-buffer awareness; \
         at TC. What a test run of a kernel does not carry is judged by the same code on the host: \
         frames under 14 bytes anywhere, short linear parts before 6.18, at TC frames over a \
         page or with a cut IP header.\n\n{}\n",
        today()?,
        commit.trim(),
        if changed { " with changes" } else { "" },
        guest::emulator()?,
        table(rows)
    );
    text.push_str(
        "The tests, by program, with seconds of the guest's clock, which is the machine's:\n\n",
    );
    for row in rows.iter().filter(|row| !row.tests.is_empty()) {
        let programs = row.tests.iter().map(|(name, passed, all, seconds)| {
            format!("`{name}` {passed} of {all} ({seconds:.0} s)")
        });
        let _ = writeln!(text, "- {}: {}", row.kernel, programs.collect::<Vec<_>>().join(", "));
    }
    text.push_str("\nNot run there, and why:\n\n");
    for row in rows.iter().filter(|row| !row.without.is_empty()) {
        let names: Vec<String> = row.without.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(text, "- on {}, which has no TCX: {}", row.kernel, names.join(", "));
    }
    for (programs, reason) in LEFT_OUT {
        let names: Vec<String> = programs.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(text, "- {}: {reason}", names.join(", "));
    }
    Ok(text)
}

/// Puts measured costs into the record: those of the same kernels are replaced, others stay.
pub fn record(path: &Path, measured: &[String]) -> anyhow::Result<()> {
    let old = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    fs::write(path, merged(&old, measured)).with_context(|| format!("writing {}", path.display()))
}

fn merged(old: &str, measured: &[String]) -> String {
    let kernel = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let (comments, lines): (Vec<&str>, Vec<&str>) =
        old.lines().partition(|line| line.starts_with('#'));
    let stays = |line: &&str| !measured.iter().any(|new| kernel(new) == kernel(line));
    let mut lines: Vec<String> = lines.into_iter().filter(stays).map(str::to_owned).collect();
    lines.extend(measured.iter().cloned());
    lines.sort_by_key(|line| {
        let numbers = kernel(line).split('.').map(|n| n.parse().unwrap_or(0)).collect::<Vec<u32>>();
        (numbers, line.clone())
    });
    let mut text = comments.join("\n");
    for line in lines {
        text.push('\n');
        text.push_str(&line);
    }
    text + "\n"
}

/// The date in UTC, as in 2026-11-23.
fn today() -> anyhow::Result<String> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Ok(date(seconds / 86_400))
}

/// The date so many days after the first of January 1970 (H. Hinnant, "chrono-compatible low-level
/// date algorithms", `civil_from_days`).
fn date(days: u64) -> String {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measured_kernel_is_replaced_and_the_others_stay_in_their_order() {
        let old = "# what it is\n6.1    a 1 1 1\n6.12   a 2 2 2\n6.18   a 3 3 3\n";
        let measured = ["6.12   a 9 9 9".to_owned(), "6.2    a 8 8 8".to_owned()];
        assert_eq!(
            merged(old, &measured),
            "# what it is\n6.1    a 1 1 1\n6.2    a 8 8 8\n6.12   a 9 9 9\n6.18   a 3 3 3\n"
        );
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(19_782), "2024-02-29");
        assert_eq!(date(20_780), "2026-11-23");
    }

    #[test]
    fn a_kernel_that_ran_nothing_has_dashes() {
        let row = Row { kernel: "5.10".into(), suite: "bullseye", ..Row::default() };
        let text = table(&[row]);
        assert!(
            text.lines().nth(2).is_some_and(|line| line.matches("| - ").count() == 4),
            "{text}"
        );
    }
}
