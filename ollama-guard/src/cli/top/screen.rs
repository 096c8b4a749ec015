//! The screen, drawn from model and view.
//!
//! From top to bottom: the state of the guard, rates by verdict, strangers, doors, books and
//! configuration, the keys. What does not fit is left out from the least to the most important: the
//! strangers and the state stay to the last.

mod overlay;
mod state;
mod table;

use jiff::Timestamp;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Paragraph, Sparkline},
};

pub(super) use self::state::{books, configuration, coverage};

use super::{
    model::Model,
    rates::{self, ByVerdict, Rates},
    theme::Theme,
    view::View,
};

/// Lines from which on there is room for everything.
const TALL: u16 = 18;
/// Columns of a rate: title, a second, total.
const RATE: u16 = 38;

/// Draws all of it, as of now.
pub(super) fn draw(frame: &mut Frame<'_>, live: &Model, view: &View, theme: Theme, now: Timestamp) {
    let model = view.model(live);
    let area = frame.area();
    let is_tall = area.height >= TALL;
    let doors = state::doors(model, theme, is_tall);
    let facts = state::facts(live, theme);
    let bottom = if area.height >= 10 { doors.len() + facts.len() } else { 0 };
    let bottom = u16::try_from(bottom).unwrap_or(u16::MAX).min(area.height / 3);
    let rates = match area.height {
        TALL.. => 4,
        5.. => 1,
        _ => 0,
    };
    let [head, trouble, rate_area, strangers, bottom, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::from(live.lost.is_some())),
        Constraint::Length(rates),
        Constraint::Min(2),
        Constraint::Length(bottom),
        Constraint::Length(u16::from(area.height >= 4)),
    ])
    .areas(area);
    frame.render_widget(state::head(model, view, theme, now, area.width), head);
    if let Some(line) = state::lost(live, theme) {
        frame.render_widget(line, trouble);
    }
    if is_tall {
        draw_rates(frame, &model.rates, theme, rate_area);
    } else {
        frame.render_widget(short_rates(&model.rates), rate_area);
    }
    table::draw(frame, model, view, theme, now, strangers);
    // What is told about the configuration and the events stands before what is left of the doors.
    let mut lines = facts;
    lines.extend(doors);
    frame.render_widget(Paragraph::new(lines), bottom);
    frame.render_widget(state::keys(view, theme, area.width), keys);
    overlay::draw(frame, view, theme);
}

type Of<T> = fn(&ByVerdict<T>) -> T;

/// The three verdicts: title, rate and total.
const VERDICTS: [(&str, Of<f64>, Of<u64>); 3] = [
    ("passed", |rates| rates.passed, |totals| totals.passed),
    ("dropped", |rates| rates.dropped, |totals| totals.dropped),
    ("would drop", |rates| rates.would_drop, |totals| totals.would_drop),
];

fn draw_rates(frame: &mut Frame<'_>, rates: &Rates, theme: Theme, area: Rect) {
    let [titles, rows] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let width = usize::from(area.width.saturating_sub(RATE + 1));
    let title = format!("{:<12}{:>11}{:>15}", "PACKETS", "A SECOND", "TOTAL");
    let past = if width > 20 { format!("  the last {}", span(width)) } else { String::new() };
    let line = Line::from(vec![Span::styled(title, theme.title()), Span::raw(past)]);
    frame.render_widget(line, titles);
    let lines = Layout::vertical([Constraint::Length(1); 3]).split(rows);
    let styles = [theme.good(), theme.shut(), theme.odd()];
    for (((name, rate, total), style), line) in VERDICTS.iter().zip(styles).zip(lines.iter()) {
        let [numbers, bars] =
            Layout::horizontal([Constraint::Length(RATE + 1), Constraint::Min(0)]).areas(*line);
        let text = format!(
            "{name:<12}{:>11}{:>15}",
            per_second(rate(&rates.now())),
            total(&rates.totals())
        );
        frame.render_widget(Line::styled(text, style), numbers);
        let mut data = rates.past(width, *rate);
        // The newest stands at the right edge.
        let missing = width.saturating_sub(data.len());
        data.splice(0..0, std::iter::repeat_n(0, missing));
        frame.render_widget(Sparkline::default().data(&data).style(style), bars);
    }
}

fn short_rates(rates: &Rates) -> Line<'static> {
    let parts = VERDICTS
        .iter()
        .map(|(name, rate, _)| format!("{name} {}/s", per_second(rate(&rates.now()))));
    Line::raw(parts.collect::<Vec<_>>().join("  "))
}

/// How far back so many columns reach, in words.
fn span(columns: usize) -> String {
    let seconds = (columns * rates::seconds_of_a_column(columns)).min(rates::SECONDS);
    match seconds / 60 {
        0 => format!("{seconds} s"),
        minutes => format!("{minutes} min"),
    }
}

/// A rate with one decimal, as long as that says something.
pub(super) fn per_second(rate: f64) -> String {
    if rate < 999.95 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

#[cfg(test)]
pub(super) mod tests;
