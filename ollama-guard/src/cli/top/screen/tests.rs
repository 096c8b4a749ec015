//! The whole screen as text, in several sizes and states, and the picture of it in the documentation.

mod picture;

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::KeyCode,
    style::{Color, Modifier},
};

use super::*;
use crate::{
    cli::top::{
        model::{Update, tests::report},
        strangers::tests::{event, time},
        view::tests::key,
    },
    events::{Event, Line as EventLine, Mark},
    status::{HistoryStatus, Rejected},
};

/// Seconds after noon.
const NOW: i64 = 300;

/// Five minutes with a friend, somebody who hammers, somebody who scans, and a few others.
fn model() -> Model {
    let (mut model, start) = (Model::default(), Instant::now());
    let (mut allowed, mut dropped) = (9000, 1000);
    for second in 0..=NOW.unsigned_abs() {
        let wave = (second % 90).abs_diff(45);
        allowed += 20 + wave + second % 3 * 4;
        dropped += match second {
            100..125 => 60 + second % 5 * 8,
            200.. => 12 + second % 7 * 4,
            _ => second % 4,
        };
        let counters = [("allowed", allowed, 0), ("not-listed", dropped, 0)];
        let mut report = report(&counters);
        // The books tell of the same packets.
        let book = &mut report.books.enforce;
        (book.dropped, book.submitted) = (dropped, dropped - book.suppressed);
        let at = start + Duration::from_secs(second);
        model.take(Update::Status(report, at), time(0));
    }
    let mut knock = |source: &str, seconds: i64, count: u64, marks: &[Mark]| {
        let event = Event { marks: marks.to_vec(), ..event(source, seconds, count) };
        model.take(Update::Line(EventLine::Event(Arc::new(event))), time(seconds));
    };
    knock("198.51.100.7", -90_000, 12, &[Mark::FirstSeen]);
    knock("2001:db8:bad::66", 30, 4, &[Mark::FirstSeen]);
    for second in 100..125 {
        knock("203.0.113.66", second, 76, if second == 102 { &[Mark::Burst] } else { &[] });
    }
    for second in (200..NOW).step_by(2) {
        knock("192.0.2.77", second, 46, if second == 210 { &[Mark::Scan] } else { &[] });
    }
    knock("2001:db8:bad::67", NOW - 3, 1, &[]);
    model
}

fn drawn(model: &Model, view: &View, width: u16, height: u16, theme: Theme) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, view, theme, time(NOW))).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let line: String = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn shown(model: &Model, view: &View, width: u16, height: u16) -> String {
    text(&drawn(model, view, width, height, Theme::default()))
}

/// Compares with a file beside this one, or writes it.
fn expect(name: &str, screen: &str) {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/top/screen/tests");
    let path = Path::new(directory).join(name);
    if picture::is_recording() {
        fs::write(&path, screen).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        screen, expected,
        "{name} is another screen: run `cargo xtask picture` if it is meant"
    );
}

fn pressed(model: &Model, keys: &[KeyCode]) -> View {
    let mut view = View::default();
    for code in keys {
        view.press(key(*code), model, time(NOW));
    }
    view
}

#[test]
fn the_screen_of_a_usual_terminal() {
    expect("usual.txt", &shown(&model(), &View::default(), 80, 24));
}

#[test]
fn the_question_before_a_deed() {
    let view = pressed(&model(), &[KeyCode::Char('a')]);
    expect("question.txt", &shown(&model(), &view, 80, 24));
    let view = pressed(&model(), &[KeyCode::End, KeyCode::Char('d')]);
    let screen = shown(&model(), &view, 80, 24);
    assert!(screen.contains("ollama-guard deny add 2001:db8:bad::/64"), "{screen}");
    assert!(screen.contains("Tab: address or network"), "{screen}");
}

#[test]
fn a_small_terminal_shows_what_matters_most() {
    let model = model();
    for (width, height) in [(79, 23), (60, 16), (40, 12), (30, 8), (24, 5), (10, 3)] {
        let screen = shown(&model, &View::default(), width, height);
        assert_eq!(screen.lines().count(), usize::from(height));
        assert!(screen.starts_with("ollama-gua"), "{width}x{height}:\n{screen}");
        if height >= 5 {
            assert!(screen.contains("192.0.2.77"), "{width}x{height}:\n{screen}");
            assert!(screen.contains("q quit"), "{width}x{height}:\n{screen}");
        }
        if width >= 40 {
            assert!(screen.contains("ENFORCING") && screen.contains("dropped"), "{screen}");
            assert!(screen.contains("DOOR    eth0             covered, native"), "{screen}");
        }
    }
    // Too small for anything is no reason to fall over.
    for (width, height) in [(1, 1), (80, 1), (1, 24), (3, 2)] {
        shown(&model, &pressed(&model, &[KeyCode::Char('a')]), width, height);
        shown(&model, &pressed(&model, &[KeyCode::Char('?')]), width, height);
    }
}

#[test]
fn a_long_list_follows_the_selection() {
    let mut model = model();
    for n in 1..100 {
        let event = event(&format!("10.0.0.{n}"), 0, 100 - n);
        model.take(Update::Line(EventLine::Event(Arc::new(event))), time(0));
    }
    let top = shown(&model, &View::default(), 80, 24);
    assert!(top.contains("203.0.113.66") && !top.contains("10.0.0.60 "), "{top}");
    let moved = [KeyCode::PageDown; 6];
    let below = shown(&model, &pressed(&model, &moved), 80, 24);
    assert!(below.contains("10.0.0.58 ") && !below.contains("203.0.113.66"), "{below}");
    let end = shown(&model, &pressed(&model, &[KeyCode::End]), 80, 24);
    assert!(end.contains("10.0.0.99 "), "{end}");
}

#[test]
fn what_is_wrong_is_said() {
    let mut model = model();
    model.take(Update::Lost("no daemon answers on /run/x".into()), time(NOW - 9));
    let screen = shown(&model, &View::default(), 80, 24);
    let lost = "NO ANSWER since 12:04:51, trying again: no daemon answers on /run/x";
    assert!(screen.contains(lost), "{screen}");
    assert!(screen.contains("203.0.113.66"), "what was known stays:\n{screen}");

    let mut bad = report(&[]);
    bad.enforcing = false;
    bad.problems = vec!["eth1: its link is gone".into(), "ports or rules in force are not".into()];
    bad.doors[0].is_wrong = true;
    bad.doors[0].name = "eth1".into();
    bad.doors[0].reason = Some("its link is gone".into());
    let problems = "line 3: what is\x1b[2J this?\nmore".into();
    let rejected = Rejected { at: time(0), problems, last_good: None };
    bad.daemon.configuration.as_mut().unwrap().rejected = Some(rejected);
    bad.daemon.history =
        Some(HistoryStatus { trouble: Some("no space".into()), ..HistoryStatus::default() });
    model.take(Update::Status(bad, Instant::now()), time(NOW));
    let screen = shown(&model, &View::default(), 80, 30);
    for words in [
        "NOT ENFORCING",
        "CONFIG REJECTED at 2026-03-01T12:00:00Z: line 3: what is\\u{1b}[2J this?",
        "PROBLEM ports or rules in force are not",
        "HISTORY no space",
        "DOOR    eth1             not covered: its link is gone",
    ] {
        assert!(screen.contains(words), "{words}:\n{screen}");
    }
    assert!(!screen.contains("NO ANSWER") && !screen.contains("PROBLEM eth1"), "{screen}");
}

#[test]
fn filter_pause_and_help_are_seen() {
    let model = model();
    let typed = ['/', 'b', 'a', 'd'].map(KeyCode::Char);
    let screen = shown(&model, &pressed(&model, &typed), 80, 24);
    assert!(screen.contains("STRANGERS 1 ") && screen.contains("filter /bad_"), "{screen}");
    assert!(screen.contains("Enter keeps it"), "{screen}");
    let screen = shown(&model, &pressed(&model, &[KeyCode::Char('p')]), 80, 24);
    assert!(screen.lines().next().unwrap().contains("PAUSED"), "{screen}");
    let screen = shown(&model, &pressed(&model, &[KeyCode::Char('?')]), 80, 24);
    assert!(screen.contains("estimated from events: packets that"), "{screen}");
    assert!(screen.contains("q Esc Ctrl-C   quit"), "{screen}");
    let nobody = Model::default();
    let screen = shown(&nobody, &View::default(), 80, 24);
    assert!(screen.contains("asking the daemon") && screen.contains("nobody was shut out"));
}

#[test]
fn without_colours_there_are_none_and_the_selection_is_still_seen() {
    let plain = drawn(&model(), &View::default(), 80, 24, Theme::default());
    let cells = || plain.content().iter();
    assert!(cells().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    assert!(cells().any(|cell| cell.modifier.contains(Modifier::REVERSED)));
    let coloured = drawn(&model(), &View::default(), 80, 24, Theme { is_coloured: true });
    assert!(coloured.content().iter().any(|cell| cell.fg == Color::Green));
}
