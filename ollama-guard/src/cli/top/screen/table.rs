//! The strangers, a line each.

use jiff::Timestamp;
use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::per_second;
use crate::{
    cli::top::{model::Model, strangers::Stranger, theme::Theme, view::View},
    events::{Mark, event::Outcome, text::Printable},
};

/// A day, in seconds: what is longer ago is shown by its date.
const DAY: i64 = 86_400;

/// Which columns there is room for.
struct Columns {
    has_rate: bool,
    has_last: bool,
    has_first: bool,
}

impl Columns {
    const fn within(width: u16) -> Self {
        Self { has_last: width >= 54, has_rate: width >= 64, has_first: width >= 74 }
    }

    fn titles(&self) -> String {
        self.line("SOURCE", "~PACKETS", "~A SECOND", "FIRST", "LAST", "LAST REASON")
    }

    fn line(
        &self,
        source: &str,
        packets: &str,
        rate: &str,
        first: &str,
        last: &str,
        reason: &str,
    ) -> String {
        let mut line = format!("{source:<23}{packets:>9}");
        for (is_there, text, width) in
            [(self.has_rate, rate, 9), (self.has_first, first, 8), (self.has_last, last, 8)]
        {
            if is_there {
                line.push_str(&format!(" {text:>width$}"));
            }
        }
        line.push_str("  ");
        line.push_str(reason);
        line
    }
}

pub(super) fn draw(
    frame: &mut Frame<'_>,
    model: &Model,
    view: &View,
    theme: Theme,
    now: Timestamp,
    area: Rect,
) {
    let (rows, selected) = view.rows(model, now);
    let columns = Columns::within(area.width);
    let mut lines = Vec::new();
    if area.height > 3 {
        lines.push(summary(model, view, rows.len(), theme));
    }
    lines.push(Line::styled(columns.titles(), theme.title()));
    let room = usize::from(area.height).saturating_sub(lines.len());
    let first = first_shown(room, selected);
    for (at, stranger) in rows.iter().enumerate().skip(first).take(room) {
        let line = row(&columns, stranger, theme, now);
        let is_selected = selected == Some(at);
        let style = if is_selected { theme.selected() } else { ratatui::style::Style::new() };
        // The whole line, so that the selection is a bar.
        let line = line.style(style);
        lines.push(if is_selected { padded(line, area.width) } else { line });
    }
    if rows.is_empty() && room > 0 {
        let none = if model.strangers.count() == 0 {
            "  nobody was shut out in this time"
        } else {
            "  nobody matches"
        };
        lines.push(Line::styled(none, theme.faint()));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// So that the selected one is shown, and stays where it is in a list that is short enough.
fn first_shown(room: usize, selected: Option<usize>) -> usize {
    selected.map_or(0, |selected| (selected + 1).saturating_sub(room))
}

fn summary(model: &Model, view: &View, shown: usize, theme: Theme) -> Line<'static> {
    let choice = &view.choice;
    let order = if choice.is_reversed { ", reversed" } else { "" };
    let mut line = Line::from(vec![Span::styled(format!("STRANGERS {shown}"), theme.title())]);
    line.push_span(format!("  estimated from events, by {}{order}", choice.sort.name()));
    if model.missing > 0 {
        line.push_span(Span::styled(format!("  {} events missing", model.missing), theme.odd()));
    }
    if view.is_filtering || !choice.filter.is_empty() {
        let cursor = if view.is_filtering { "_" } else { "" };
        line.push_span(Span::styled(format!("  filter /{}{cursor}", choice.filter), theme.odd()));
    }
    if !choice.ignored.is_empty() {
        line.push_span(format!("  ignored {}", choice.ignored.len()));
    }
    line
}

fn row(columns: &Columns, stranger: &Stranger, theme: Theme, now: Timestamp) -> Line<'static> {
    let would = if stranger.verdict == Outcome::WouldDrop { "would drop: " } else { "" };
    let text = columns.line(
        &stranger.source(),
        &format!("~{}", stranger.packets),
        &format!("~{}", per_second(stranger.rate(now))),
        &clock(stranger.first, now),
        &clock(stranger.last, now),
        &format!("{would}{}", Printable(&stranger.reason)),
    );
    let mut line = Line::raw(text);
    // When somebody was first seen has a column of its own.
    let marks: Vec<_> =
        stranger.marks.iter().copied().filter(|mark| *mark != Mark::FirstSeen).collect();
    if !marks.is_empty() {
        line.push_span(Span::styled(format!(" {}", Mark::join(&marks)), theme.odd()));
    }
    line
}

fn padded(mut line: Line<'static>, width: u16) -> Line<'static> {
    let missing = usize::from(width).saturating_sub(line.width());
    line.push_span(" ".repeat(missing));
    line
}

/// The time of day, or the date of what is longer ago than a day; in UTC, as everywhere.
fn clock(time: Timestamp, now: Timestamp) -> String {
    if now.duration_since(time).as_secs().abs() < DAY {
        time.strftime("%H:%M:%S").to_string()
    } else {
        time.strftime("%m-%d").to_string()
    }
}
