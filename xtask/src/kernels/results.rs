//! What a guest printed, as values.

use std::collections::BTreeMap;

/// One step of a guest.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    /// Its name: a test program, or another thing done.
    pub name: String,
    /// How it ended; `None` if the guest ended before.
    pub status: Option<i32>,
    /// Seconds of the guest's clock.
    pub seconds: f64,
    /// What was printed meanwhile.
    pub output: String,
}

/// The steps between the marks, in their order.
pub fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("@begin") => {
                let name = words.next().unwrap_or_default().to_owned();
                let seconds = -number(words.next());
                steps.push(Step { name, seconds, ..Step::default() });
            }
            Some("@end") => {
                let name = words.next().unwrap_or_default();
                if let Some(step) = steps.iter_mut().rfind(|step| step.name == name) {
                    step.status = words.next().and_then(|word| word.parse().ok());
                    step.seconds += number(words.next());
                }
            }
            _ => {
                if let Some(step) = steps.last_mut() {
                    step.output.push_str(line);
                    step.output.push('\n');
                }
            }
        }
    }
    steps
}

fn number(word: Option<&str>) -> f64 {
    word.and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// Names of tests that passed, and of those that did not.
pub fn outcomes(output: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for line in output.lines() {
        let Some((name, rest)) = line.strip_prefix("test ").and_then(|l| l.split_once(" ... "))
        else {
            continue;
        };
        // A panic's message may come in between.
        if rest.ends_with("ok") { passed.push(name) } else { failed.push(name) }
    }
    (passed, failed)
}

/// How many packets of the table were judged where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packets {
    /// By the loaded program.
    pub in_kernel: u64,
    /// On the host: under 14 bytes.
    pub too_short: u64,
    /// On the host: a short linear part.
    pub uncut: u64,
    /// On the host: over a page, at TC.
    pub too_long: u64,
    /// On the host: a cut IP header, at TC.
    pub cut_header: u64,
}

/// The lines `packets: NAME: ...`, by name.
pub fn packets(output: &str) -> BTreeMap<String, Packets> {
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix("packets: ")?.split_once(": ")?;
        // "7 in the kernel, on the host 8 under 14 bytes, ...": each part's first number.
        let mut numbers = rest.split(", ").map(|part| part.split(' ').find_map(|w| w.parse().ok()));
        let mut next = || numbers.next().flatten();
        let packets = Packets {
            in_kernel: next()?,
            too_short: next()?,
            uncut: next()?,
            too_long: next()?,
            cut_header: next()?,
        };
        Some((name.to_owned(), packets))
    };
    output.lines().filter_map(line).collect()
}

/// The lines `budget: ...`: lines of the record.
pub fn budget(output: &str) -> Vec<String> {
    let lines = output.lines().filter_map(|line| line.strip_prefix("budget: "));
    lines.map(|line| line.trim_end().to_owned()).collect()
}

/// Verified instructions by program, from lines of the record.
pub fn verified(lines: &[String]) -> BTreeMap<String, u64> {
    let fields = |line: &String| {
        let mut fields = line.split_whitespace().skip(1);
        Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
    };
    lines.iter().filter_map(fields).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_what_stands_between_its_marks() {
        let text = "@begin kernel 3.5\ntest a ... ok\n\n@end kernel 0 5.0\n@begin lost 6\nhalf";
        let steps = steps(text);
        assert_eq!(steps.len(), 2);
        assert_eq!((steps[0].status, steps[0].seconds), (Some(0), 1.5));
        assert_eq!(steps[0].output, "test a ... ok\n\n");
        assert_eq!((steps[1].status, steps[1].output.as_str()), (None, "half\n"));
    }

    #[test]
    fn what_is_not_ok_has_failed() {
        let text = "running 2 tests\ntest a ... ok\ntest b ... FAILED\ntest c ... \n\
                    test result: FAILED. 1 passed\n";
        assert_eq!(outcomes(text), (vec!["a"], vec!["b", "c"]));
    }

    #[test]
    fn packets_and_costs_are_read_from_their_lines() {
        let text = "packets: cut: 7 in the kernel, on the host 8 under 14 bytes, 9 with a short \
                    linear part, 10 over a page, 11 with a cut IP header\nbudget: 6.1    usual/link   111  222  80\n";
        let expected =
            Packets { in_kernel: 7, too_short: 8, uncut: 9, too_long: 10, cut_header: 11 };
        assert_eq!(packets(text).get("cut"), Some(&expected));
        assert_eq!(verified(&budget(text)).get("usual/link"), Some(&111));
    }
}
