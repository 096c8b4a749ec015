//! Asking a person before something closes. Only where there is one: scripts are never asked.

use std::io::{self, BufRead, IsTerminal as _, Write};

/// Asks, and returns whether the answer is yes.
pub type Ask = fn() -> io::Result<bool>;

/// Whether there is somebody to ask, who has not said yes already.
#[must_use]
pub fn may_ask(says_yes: bool) -> bool {
    !says_yes && io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks on the terminal.
pub fn on_terminal() -> io::Result<bool> {
    ask(&mut io::stdin().lock(), &mut io::stderr())
}

/// Whoever says nothing says no.
fn ask(answers: &mut dyn BufRead, questions: &mut dyn Write) -> io::Result<bool> {
    write!(questions, "go on? With --confirm 60s it would be taken back by itself. [y/N] ")?;
    questions.flush()?;
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        for (answer, meaning) in [
            ("y\n", true),
            ("Yes\n", true),
            ("\n", false),
            ("", false),
            ("n\n", false),
            ("yeah\n", false),
        ] {
            let mut questions = Vec::new();
            assert_eq!(ask(&mut answer.as_bytes(), &mut questions).unwrap(), meaning, "{answer:?}");
            assert!(String::from_utf8(questions).unwrap().ends_with("[y/N] "));
        }
    }
}
