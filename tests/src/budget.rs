//! What the programs cost the verifier, and the record of it in `tests/budget.txt`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// The committed record.
const COMMITTED: &str = include_str!("../budget.txt");

/// The growth that is let pass, in percent.
const TOLERATED: u64 = 10;

/// Version and patch level of a kernel: 6.18.
pub type Release = (u32, u32);

/// What one program costs on one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Instructions that the verifier went through, over all paths. It gives up at a million.
    pub verified: u32,
    /// Bytes of machine code: for the record only, because the processor's bugs have a share in it.
    pub jited: u32,
    /// Bytes of stack, of 512.
    pub stack: u32,
}

/// Costs by kernel, then by program.
#[derive(Debug, Default)]
pub struct Record(BTreeMap<Release, BTreeMap<String, Cost>>);

impl Record {
    /// The committed one.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn committed() -> Result<Self> {
        Self::parse(COMMITTED)
    }

    /// Reads a record: one line for each kernel and program, `#` begins a comment.
    fn parse(text: &str) -> Result<Self> {
        let mut record = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            let (release, program, cost) =
                parse_line(line).with_context(|| format!("tests/budget.txt: {line}"))?;
            record.0.entry(release).or_default().insert(program, cost);
        }
        Ok(record)
    }

    /// A line of the record.
    #[must_use]
    pub fn line((version, patch): Release, program: &str, cost: &Cost) -> String {
        let release = format!("{version}.{patch}");
        let Cost { verified, jited, stack } = cost;
        format!("{release:<6} {program:<26} {verified:>8} {jited:>8} {stack:>6}")
    }

    /// The kernel of the record that comes nearest to this one: itself, or the newest that is
    /// older, or else the oldest.
    #[must_use]
    pub fn nearest(&self, release: Release) -> Option<Release> {
        let older = self.0.range(..=release).next_back();
        older.or_else(|| self.0.first_key_value()).map(|(found, _)| *found)
    }

    /// What costs more than a tenth more than recorded for a kernel, or is on one side only: one
    /// line each.
    #[must_use]
    pub fn grown(&self, release: Release, found: &BTreeMap<String, Cost>) -> Vec<String> {
        let Some(recorded) = self.0.get(&release) else {
            return vec![format!("nothing is recorded for {release:?}")];
        };
        let mut lines = Vec::new();
        for (program, now) in found {
            let Some(then) = recorded.get(program) else {
                lines.push(format!("{program} is not in the record"));
                continue;
            };
            for (what, now, then) in [
                ("verified instructions", now.verified, then.verified),
                ("bytes of stack", now.stack, then.stack),
            ] {
                if u64::from(now) * 100 > u64::from(then) * (100 + TOLERATED) {
                    lines.push(format!("{program}: {now} {what}, {then} are recorded"));
                }
            }
        }
        let gone = recorded.keys().filter(|program| !found.contains_key(*program));
        lines.extend(gone.map(|program| format!("{program} is recorded and was not loaded")));
        lines
    }
}

fn parse_line(line: &str) -> Result<(Release, String, Cost)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [release, program, verified, jited, stack] = fields[..] else {
        bail!("{} fields instead of 5", fields.len());
    };
    let (version, patch) = release.split_once('.').context("no version with a point")?;
    let cost = Cost { verified: verified.parse()?, jited: jited.parse()?, stack: stack.parse()? };
    Ok(((version.parse()?, patch.parse()?), program.to_owned(), cost))
}

/// Bytes of stack that a program uses at its deepest, read from `bpftool prog dump xlated`: what is
/// left once the verifier has removed the branches that never run. A function's frame reaches down
/// to the lowest address that it reads, writes or takes below its frame pointer `r10`; the frames
/// of the functions that it calls come below.
///
/// # Errors
///
/// If there is no program.
pub fn stack_bytes(dump: &str) -> Result<u32> {
    let instructions: Vec<(usize, &str)> = dump.lines().filter_map(instruction).collect();
    if instructions.is_empty() {
        bail!("no instructions in: {dump}");
    }
    let mut frames: BTreeMap<usize, Frame> = BTreeMap::from([(0, Frame::default())]);
    for target in instructions.iter().filter_map(|&(at, text)| called(at, text)) {
        frames.insert(target, Frame::default());
    }
    for (at, text) in instructions {
        let (_, frame) = frames.range_mut(..=at).next_back().context("0 is a start")?;
        frame.see(at, text)?;
    }
    deepest(&frames, 0)
}

/// Position and text of an instruction, if the line holds one: `  12: (7b) *(u64 *)(r10 -16) = r6`.
fn instruction(line: &str) -> Option<(usize, &str)> {
    let (at, rest) = line.trim_start().split_once(": (")?;
    Some((at.parse().ok()?, rest.split_once(") ")?.1))
}

/// The position of the function that is called: `call pc+526#...`.
fn called(at: usize, text: &str) -> Option<usize> {
    Some(at + 1 + number(text.strip_prefix("call pc+")?).ok()? as usize)
}

/// What one function of a program needs.
#[derive(Debug, Default)]
struct Frame {
    bytes: u32,
    calls: Vec<usize>,
    /// Registers that hold a copy of the frame pointer.
    copies: Vec<String>,
}

impl Frame {
    fn see(&mut self, at: usize, text: &str) -> Result<()> {
        self.calls.extend(called(at, text));
        if let Some((_, rest)) = text.split_once("(r10 -") {
            self.bytes = self.bytes.max(number(rest)?);
        }
        // `r2 = r10` and then `r2 += -24`: an address for a helper.
        match text.split_once(' ') {
            Some((register, "= r10")) => self.copies.push(register.to_owned()),
            Some((register, change)) if self.copies.iter().any(|copy| copy == register) => {
                if let Some(distance) = change.strip_prefix("+= -") {
                    self.bytes = self.bytes.max(number(distance)?);
                }
                self.copies.retain(|copy| copy != register);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The verifier lets no function call itself, so this ends.
fn deepest(frames: &BTreeMap<usize, Frame>, start: usize) -> Result<u32> {
    let frame = frames.get(&start).context("a call to no function")?;
    let mut below = 0;
    for &call in &frame.calls {
        below = below.max(deepest(frames, call)?);
    }
    Ok(frame.bytes.next_multiple_of(8) + below)
}

fn number(text: &str) -> Result<u32> {
    let digits = text.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().with_context(|| format!("no number in {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "# a comment\n6.1 usual/link 1000 100 80\n6.18 usual/link 2000 200 80\n";

    fn found(verified: u32, stack: u32) -> BTreeMap<String, Cost> {
        BTreeMap::from([("usual/link".to_owned(), Cost { verified, jited: 100, stack })])
    }

    #[test]
    fn the_committed_record_can_be_read_and_has_the_kernel_of_ci() {
        let record = Record::committed().expect("it is well formed");
        assert_eq!(record.nearest((6, 18)), Some((6, 18)));
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let cost = Cost { verified: 12, jited: 34, stack: 56 };
        let line = Record::line((6, 1), "usual/link", &cost);
        assert_eq!(parse_line(&line).expect("a line"), ((6, 1), "usual/link".into(), cost));
    }

    #[test]
    fn a_kernel_is_compared_with_the_newest_that_is_not_newer() {
        let record = Record::parse(RECORD).expect("a record");
        for (release, nearest) in
            [((6, 1), (6, 1)), ((6, 17), (6, 1)), ((7, 2), (6, 18)), ((5, 15), (6, 1))]
        {
            assert_eq!(record.nearest(release), Some(nearest), "{release:?}");
        }
    }

    #[test]
    fn a_tenth_more_is_let_pass_and_not_one_instruction_further() {
        let record = Record::parse(RECORD).expect("a record");
        assert_eq!(record.grown((6, 1), &found(1100, 88)), [""; 0]);
        assert_eq!(
            record.grown((6, 1), &found(1101, 80)),
            ["usual/link: 1101 verified instructions, 1000 are recorded"]
        );
        assert_eq!(
            record.grown((6, 1), &found(900, 96)),
            ["usual/link: 96 bytes of stack, 80 are recorded"]
        );
    }

    #[test]
    fn a_program_on_one_side_only_is_told() {
        let record = Record::parse(RECORD).expect("a record");
        let other = BTreeMap::from([("new".into(), Cost { verified: 1, jited: 1, stack: 0 })]);
        assert_eq!(
            record.grown((6, 1), &other),
            ["new is not in the record", "usual/link is recorded and was not loaded"]
        );
    }

    #[test]
    fn stack_is_what_lies_below_the_frame_pointer() {
        let dump = "int og_link(struct xdp_md * ctx):\n; let frame = 1;\n   0: (bf) r6 = r1\n   1: \
                    (7b) *(u64 *)(r10 -16) = r6\n   2: (bf) r2 = r10\n   3: (07) r2 += -36\n   4: \
                    (85) call bpf_map_lookup_elem#1\n   5: (71) r1 = *(u8 *)(r0 +300)\n   6: (95) \
                    exit\n";
        assert_eq!(stack_bytes(dump).expect("a program"), 40);
        assert!(stack_bytes("nothing").is_err());
        let calling = "   0: (85) call pc+2#f\n   1: (7b) *(u64 *)(r10 -8) = r1\n   2: (95) exit\n\
                       void f(u8 * s):\n   3: (7b) *(u64 *)(r10 -32) = r1\n   4: (95) exit\n";
        assert_eq!(stack_bytes(calling).expect("two functions"), 40);
    }
}
