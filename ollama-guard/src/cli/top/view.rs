//! What the person does with the keys: pure, from one state to the next.

use std::net::IpAddr;

use jiff::Timestamp;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    dialog::{Deed, Dialog},
    model::Model,
    strangers::{Choice, Stranger},
};
use crate::policy::{Effect, Prefix};

/// Rows that a page is.
const PAGE: isize = 10;
/// Letters that a filter may have.
const FILTER: usize = 64;

/// What the screen shows of the model, and how.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) choice: Choice,
    /// The stranger that the keys are about.
    pub(super) selected: Option<IpAddr>,
    /// Whether letters go into the filter.
    pub(super) is_filtering: bool,
    /// The model as it was when the person asked for a pause.
    pub(super) frozen: Option<Box<Model>>,
    pub(super) dialog: Option<Dialog>,
    pub(super) has_help: bool,
    /// What came of the last deed.
    pub(super) message: Option<Message>,
    /// The daemon's socket, if a command has to be told.
    pub(super) socket: Option<String>,
}

/// A line for the person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) text: String,
    pub(super) is_bad: bool,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing but to show what has changed.
    None,
    Quit,
    /// A rule for this prefix.
    Add(Effect, String),
}

impl View {
    /// The model that is shown.
    pub(super) fn model<'m>(&'m self, live: &'m Model) -> &'m Model {
        self.frozen.as_deref().unwrap_or(live)
    }

    /// The strangers that are shown, in order, and which one is selected.
    pub(super) fn rows<'m>(
        &self,
        model: &'m Model,
        now: Timestamp,
    ) -> (Vec<&'m Stranger>, Option<usize>) {
        let rows = model.strangers.chosen(&self.choice, now);
        let selected =
            self.selected.and_then(|origin| rows.iter().position(|row| row.origin == origin));
        // Who was selected may have gone: then the first one is.
        let selected = selected.or((!rows.is_empty()).then_some(0));
        (rows, selected)
    }

    /// Takes a key, and says what it asks for.
    pub(super) fn press(&mut self, key: KeyEvent, live: &Model, now: Timestamp) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::None;
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        if is_control && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Action::Quit;
        }
        if is_control {
            return Action::None;
        }
        if self.dialog.is_some() {
            return self.answer(key.code);
        }
        if self.is_filtering {
            self.write(key.code);
            return Action::None;
        }
        if std::mem::take(&mut self.has_help) {
            return Action::None;
        }
        self.message = None;
        self.command(key.code, live, now)
    }

    fn command(&mut self, key: KeyCode, live: &Model, now: Timestamp) -> Action {
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.has_help = true,
            KeyCode::Char('s') => self.choice.sort = self.choice.sort.next(),
            KeyCode::Char('r') => self.choice.is_reversed = !self.choice.is_reversed,
            KeyCode::Char('/') => self.is_filtering = true,
            KeyCode::Char('p' | ' ') => {
                self.frozen = match self.frozen {
                    Some(_) => None,
                    None => Some(Box::new(live.clone())),
                };
            }
            KeyCode::Char('I') => self.choice.ignored.clear(),
            KeyCode::Char('a') => self.ask(Deed::Rule(Effect::Allow), live, now),
            KeyCode::Char('d') => self.ask(Deed::Rule(Effect::Deny), live, now),
            KeyCode::Char('i') => self.ask(Deed::Ignore, live, now),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1, live, now),
            KeyCode::Down | KeyCode::Char('j') => self.go(1, live, now),
            KeyCode::PageUp => self.go(-PAGE, live, now),
            KeyCode::PageDown => self.go(PAGE, live, now),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN, live, now),
            KeyCode::End | KeyCode::Char('G') => self.go(isize::MAX, live, now),
            _ => {}
        }
        Action::None
    }

    fn go(&mut self, by: isize, live: &Model, now: Timestamp) {
        let (rows, selected) = self.rows(self.model(live), now);
        let Some(selected) = selected else { return };
        let to = selected.saturating_add_signed(by).min(rows.len() - 1);
        self.selected = Some(rows[to].origin);
    }

    fn ask(&mut self, deed: Deed, live: &Model, now: Timestamp) {
        let (rows, selected) = self.rows(self.model(live), now);
        let Some(stranger) = selected.map(|at| rows[at]) else {
            let text = "there is no stranger to do that to".into();
            self.message = Some(Message { text, is_bad: true });
            return;
        };
        let dialog = Dialog::about(stranger, deed, self.socket.clone());
        // So that it stays the same one if the question is answered by no.
        self.selected = Some(stranger.origin);
        self.dialog = Some(dialog);
    }

    fn answer(&mut self, key: KeyCode) -> Action {
        let Some(dialog) = &mut self.dialog else { return Action::None };
        match key {
            KeyCode::Char('y' | 'Y') | KeyCode::Enter => {}
            KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => {
                self.dialog = None;
                return Action::None;
            }
            KeyCode::Tab => {
                dialog.switch();
                return Action::None;
            }
            _ => return Action::None,
        }
        let (deed, prefix) = (dialog.deed, dialog.prefix());
        self.dialog = None;
        match deed {
            Deed::Rule(effect) => Action::Add(effect, prefix),
            Deed::Ignore => {
                self.choice.ignored.extend(prefix.parse::<Prefix>().ok());
                Action::None
            }
        }
    }

    fn write(&mut self, key: KeyCode) {
        let filter = &mut self.choice.filter;
        match key {
            KeyCode::Enter => self.is_filtering = false,
            KeyCode::Esc => {
                filter.clear();
                self.is_filtering = false;
            }
            KeyCode::Backspace => _ = filter.pop(),
            KeyCode::Char(letter) if filter.len() < FILTER => filter.push(letter),
            _ => {}
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        cli::top::{
            model::Update,
            strangers::{
                Sort,
                tests::{event, time},
            },
        },
        events::Line,
    };

    pub(in crate::cli::top) fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    fn knock(model: &mut Model, source: &str, count: u64) {
        model.take(Update::Line(Line::Event(Arc::new(event(source, 0, count)))), time(0));
    }

    struct Bed {
        model: Model,
        view: View,
    }

    impl Bed {
        fn new() -> Self {
            let mut model = Model::default();
            for (source, count) in [("192.0.2.1", 30), ("192.0.2.2", 20), ("2001:db8::3", 10)] {
                knock(&mut model, source, count);
            }
            Self { model, view: View::default() }
        }

        fn press(&mut self, keys: &str) -> Action {
            let mut action = Action::None;
            for letter in keys.chars() {
                let code = match letter {
                    '\n' => KeyCode::Enter,
                    '\t' => KeyCode::Tab,
                    '^' => KeyCode::Esc,
                    '<' => KeyCode::Backspace,
                    other => KeyCode::Char(other),
                };
                action = self.view.press(key(code), &self.model, time(0));
            }
            action
        }

        fn shown(&self) -> Vec<String> {
            let (rows, _) = self.view.rows(self.view.model(&self.model), time(0));
            rows.iter().map(|row| row.source()).collect()
        }

        fn selected(&self) -> Option<String> {
            let (rows, at) = self.view.rows(self.view.model(&self.model), time(0));
            at.map(|at| rows[at].source())
        }
    }

    fn add(effect: Effect, prefix: &str) -> Action {
        Action::Add(effect, prefix.into())
    }

    #[test]
    fn quitting_has_three_keys() {
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(View::default().press(key(code), &Model::default(), time(0)), Action::Quit);
        }
        let mut bed = Bed::new();
        for open in ["a", "/", "?", ""] {
            bed.press(open);
            let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
            assert_eq!(bed.view.press(interrupt, &bed.model, time(0)), Action::Quit, "in {open:?}");
        }
    }

    #[test]
    fn nothing_is_done_without_a_second_key() {
        let mut bed = Bed::new();
        assert_eq!(bed.press("a"), Action::None);
        assert_eq!(bed.press("a"), Action::None, "the same key is no answer");
        assert_eq!(bed.press("y"), add(Effect::Allow, "192.0.2.1"));
        assert_eq!(bed.press("jd\n"), add(Effect::Deny, "192.0.2.2"));
        for no in ["an", "a^", "dq"] {
            assert_eq!(bed.press(no), Action::None);
            assert!(bed.view.dialog.is_none(), "{no:?}");
        }
        assert_eq!(bed.press("Ga\ty"), add(Effect::Allow, "2001:db8::/64"));
    }

    #[test]
    fn the_question_is_about_the_one_that_was_selected_whatever_comes() {
        let mut bed = Bed::new();
        bed.press("a");
        knock(&mut bed.model, "192.0.2.9", 1000);
        assert_eq!(bed.shown()[0], "192.0.2.9");
        assert_eq!(bed.press("y"), add(Effect::Allow, "192.0.2.1"));
        assert_eq!(bed.selected().as_deref(), Some("192.0.2.1"), "the selection stays with it");
    }

    #[test]
    fn the_ignored_go_and_come_back() {
        let mut bed = Bed::new();
        assert_eq!(bed.press("iy"), Action::None);
        assert_eq!(bed.shown(), ["192.0.2.2", "2001:db8::/64"]);
        bed.press("jiy");
        assert_eq!(bed.shown(), ["192.0.2.2"]);
        bed.press("I");
        assert_eq!(bed.shown().len(), 3);
    }

    #[test]
    fn moving_ends_at_both_ends() {
        let mut bed = Bed::new();
        bed.press("kk");
        assert_eq!(bed.selected().as_deref(), Some("192.0.2.1"));
        bed.press("jjjj");
        assert_eq!(bed.selected().as_deref(), Some("2001:db8::/64"));
        bed.press("g");
        assert_eq!(bed.selected().as_deref(), Some("192.0.2.1"));
    }

    #[test]
    fn a_filter_is_typed_and_kept_or_thrown_away() {
        let mut bed = Bed::new();
        bed.press("/2.22<\n");
        assert_eq!((bed.view.choice.filter.as_str(), bed.view.is_filtering), ("2.2", false));
        assert_eq!(bed.shown(), ["192.0.2.2"]);
        bed.press("/q");
        assert!(bed.view.is_filtering && bed.shown().is_empty());
        bed.press("^");
        assert_eq!(bed.shown().len(), 3);
    }

    #[test]
    fn a_pause_shows_what_was() {
        let mut bed = Bed::new();
        bed.press("p");
        knock(&mut bed.model, "192.0.2.9", 1000);
        assert_eq!(bed.shown().len(), 3);
        bed.press("p");
        assert_eq!(bed.shown().len(), 4);
    }

    #[test]
    fn sorting_help_and_an_empty_list() {
        let mut bed = Bed::new();
        bed.press("sr");
        assert_eq!((bed.view.choice.sort, bed.view.choice.is_reversed), (Sort::Rate, true));
        assert_eq!(bed.press("?"), Action::None);
        assert_eq!(bed.press("q"), Action::None, "any key closes the help");
        assert_eq!(bed.press("q"), Action::Quit);
        let mut empty = View::default();
        empty.press(key(KeyCode::Char('a')), &Model::default(), time(0));
        assert!(empty.dialog.is_none() && empty.message.is_some_and(|message| message.is_bad));
    }
}
