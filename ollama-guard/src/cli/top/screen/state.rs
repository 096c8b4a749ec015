//! What is so: the lines around the strangers.

use jiff::Timestamp;
use ratatui::text::{Line, Span};

use crate::{
    cli::top::{model::Model, theme::Theme, view::View},
    events::text::Printable,
    status::{ConfigurationStatus, DoorState, DoorStatus, StatusReport},
};

/// Doors that have a line of their own.
const DOORS: usize = 4;

/// The state, and the time.
pub(super) fn head(
    model: &Model,
    view: &View,
    theme: Theme,
    now: Timestamp,
    width: u16,
) -> Line<'static> {
    let mut line = Line::from(Span::styled("ollama-guard", theme.title()));
    match &model.report {
        None => line.push_span("  asking the daemon"),
        Some(report) => {
            let (word, style) = match (report.enforcing, report.mode.as_str()) {
                (true, _) => ("ENFORCING", theme.good()),
                (false, "observe") if report.problems.is_empty() => ("OBSERVING", theme.odd()),
                (false, _) => ("NOT ENFORCING", theme.bad()),
            };
            line.push_span("  ");
            line.push_span(Span::styled(word, style));
            line.push_span(format!("  generation {}", report.generation));
            line.push_span(format!("  {}", report.ports.join(" ")));
        }
    }
    if view.frozen.is_some() {
        line.push_span("  ");
        line.push_span(Span::styled("PAUSED", theme.odd()));
    }
    let clock = format!("{}", now.strftime("%H:%M:%S UTC"));
    let room = usize::from(width).saturating_sub(line.width());
    if room > clock.len() {
        line.push_span(format!("{clock:>room$}"));
    }
    line
}

/// That the daemon does not answer.
pub(super) fn lost(model: &Model, theme: Theme) -> Option<Line<'static>> {
    let (since, why) = model.lost.as_ref()?;
    let since = since.strftime("%H:%M:%S");
    let text = format!("NO ANSWER since {since}, trying again: {}", Printable(why));
    Some(Line::styled(text, theme.bad()))
}

/// Books, configuration, and what is wrong.
pub(super) fn facts(model: &Model, theme: Theme) -> Vec<Line<'static>> {
    let Some(report) = &model.report else { return Vec::new() };
    let mut lines = Vec::new();
    if let Some(rejected) = report.rejected() {
        let first = rejected.problems.lines().next().unwrap_or_default();
        let text = format!("CONFIG REJECTED at {:.0}: {}", rejected.at, Printable(first));
        lines.push(Line::styled(text, theme.bad()));
    }
    // What is wrong with a door stands at the door.
    let is_told = |problem: &str| {
        report.doors.iter().any(|door| problem.starts_with(&format!("{}: ", door.name)))
    };
    for problem in report.problems.iter().filter(|problem| !is_told(problem)).take(2) {
        lines.push(Line::styled(format!("PROBLEM {}", Printable(problem)), theme.bad()));
    }
    if let Some(trouble) = report.daemon.history.as_ref().and_then(|h| h.trouble.as_ref()) {
        lines.push(Line::styled(format!("HISTORY {}", Printable(trouble)), theme.odd()));
    }
    lines.push(titled("BOOKS", books(report), theme));
    lines.push(titled("CONFIG", configuration(report), theme));
    lines
}

fn titled(title: &'static str, text: String, theme: Theme) -> Line<'static> {
    Line::from(vec![Span::styled(format!("{title:<8}"), theme.title()), Span::raw(text)])
}

/// One line of the books of events, of the mode in force.
pub(in crate::cli::top) fn books(report: &StatusReport) -> String {
    let book = if report.mode == "observe" { &report.books.observe } else { &report.books.enforce };
    format!(
        "{} dropped = {} told + {} over the budget + {} lost",
        book.dropped, book.submitted, book.suppressed, book.lost
    )
}

/// One line of the configuration.
pub(in crate::cli::top) fn configuration(report: &StatusReport) -> String {
    let Some(ConfigurationStatus { files, since, .. }) = &report.daemon.configuration else {
        return "not known: no daemon".into();
    };
    let files: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    let files = if files.is_empty() { "no file".to_owned() } else { files.join(", ") };
    format!("{}, since {since:.0}", Printable(&files))
}

/// The doors, those with something wrong first; or all in a line.
pub(super) fn doors(model: &Model, theme: Theme, is_tall: bool) -> Vec<Line<'static>> {
    let Some(report) = &model.report else { return Vec::new() };
    let mut doors: Vec<_> = report.doors.iter().collect();
    doors.sort_by_key(|door| (!door.is_wrong, door.state != DoorState::Covered));
    let shown = if is_tall { DOORS } else { 1 };
    let mut lines: Vec<_> = doors.iter().take(shown).map(|door| door_line(door, theme)).collect();
    if let Some(more) = doors.len().checked_sub(shown + 1)
        && let Some(line) = lines.last_mut()
    {
        line.push_span(format!("  and {} more doors", more + 1));
    }
    lines
}

fn door_line(door: &DoorStatus, theme: Theme) -> Line<'static> {
    let style = match (door.is_wrong, door.state) {
        (true, _) => theme.bad(),
        (false, DoorState::Covered) => theme.good(),
        (false, DoorState::NotCovered) => theme.faint(),
    };
    Line::from(vec![
        Span::styled(format!("{:<8}", "DOOR"), theme.title()),
        Span::styled(
            format!("{:<16} {}", Printable(&door.name).to_string(), coverage(door)),
            style,
        ),
    ])
}

/// How a door is covered, or why not.
pub(in crate::cli::top) fn coverage(door: &DoorStatus) -> String {
    let mut text = match (door.state, door.attach, door.hook) {
        (DoorState::Covered, Some(mode), _) => format!("covered, {mode}"),
        (DoorState::Covered, None, Some(hook)) => format!("covered, {hook}"),
        (DoorState::Covered, None, None) => "covered".into(),
        (DoorState::NotCovered, ..) => "not covered".into(),
    };
    if door.observes {
        text.push_str(", observes only");
    }
    if let Some(reason) = &door.reason {
        text.push_str(&format!(": {}", Printable(reason)));
    }
    text
}

/// What the last deed brought, or the keys.
pub(super) fn keys(view: &View, theme: Theme, width: u16) -> Line<'static> {
    if let Some(message) = &view.message {
        let style = if message.is_bad { theme.bad() } else { theme.good() };
        return Line::styled(message.text.clone(), style);
    }
    if view.is_filtering {
        return Line::raw("type a part of the line, or a prefix; Enter keeps it, Esc drops it");
    }
    const KEYS: [(&str, &str); 9] = [
        ("q", "quit"),
        ("?", "help"),
        ("a", "allow"),
        ("d", "deny"),
        ("i", "ignore"),
        ("s", "sort"),
        ("/", "filter"),
        ("p", "pause"),
        ("j k", "move"),
    ];
    let mut line = Line::default();
    for (key, word) in KEYS {
        if line.width() + key.len() + word.len() + 3 > usize::from(width) {
            break;
        }
        line.push_span(Span::styled(key, theme.title()));
        line.push_span(Span::styled(format!(" {word}  "), theme.faint()));
    }
    line
}
