//! What lies over the screen: the question before a deed, and the help.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    text::{Line, Text},
    widgets::{Block, Clear, Paragraph, Wrap},
};

use crate::cli::top::{dialog::Dialog, theme::Theme, view::View};

const HELP: &str = "\
up down j k    move            PgUp PgDn g G  further
s  sort by the next column     r  the other way round
/  filter: part of the line, or a prefix
p  pause: the screen stands still, the guard does not
a  allow the source            d  deny it
i  leave it out of the screen  I  show all of those again
q Esc Ctrl-C   quit

Rates, totals, books and doors are the kernel's own. What is
said of strangers (~) is estimated from events: packets that
the budget of events left out are not in it. Times are UTC.";

pub(super) fn draw(frame: &mut Frame<'_>, view: &View, theme: Theme) {
    if let Some(dialog) = &view.dialog {
        ask(frame, dialog, theme);
    } else if view.has_help {
        boxed(frame, " Keys (any key closes this) ", Text::raw(HELP), theme);
    }
}

fn ask(frame: &mut Frame<'_>, dialog: &Dialog, theme: Theme) {
    let mut lines = vec![Line::styled(dialog.command(), theme.title()), Line::default()];
    lines.extend(dialog.changes().into_iter().map(Line::raw));
    lines.push(Line::default());
    let switch = if dialog.has_network() { "   Tab: address or network" } else { "" };
    lines.push(Line::styled(format!("y: yes   n: no{switch}"), theme.title()));
    boxed(frame, &format!(" {} ", dialog.title()), Text::from(lines), theme);
}

/// A box in the middle, as large as its text if there is room.
fn boxed(frame: &mut Frame<'_>, title: &str, text: Text<'_>, theme: Theme) {
    let area = frame.area();
    let width = area.width.min(66);
    let inner = width.saturating_sub(4);
    let paragraph = Paragraph::new(text).wrap(Wrap { trim: false });
    let lines = lines_within(&paragraph, inner);
    let height = area.height.min(lines.saturating_add(2));
    let place: Rect = area.centered(Constraint::Length(width), Constraint::Length(height));
    let block = Block::bordered()
        .title(title.to_owned())
        .title_style(theme.title())
        .padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Clear, place);
    frame.render_widget(paragraph.block(block), place);
}

/// How many lines a text takes: drawn aside, because wrapping is the widget's own.
fn lines_within(paragraph: &Paragraph<'_>, width: u16) -> u16 {
    use ratatui::{buffer::Buffer, widgets::Widget as _};
    const MOST: u16 = 40;
    let area = Rect::new(0, 0, width.max(1), MOST);
    let mut aside = Buffer::empty(area);
    paragraph.render(area, &mut aside);
    let is_blank = |y: &u16| (0..area.width).all(|x| aside[(x, *y)].symbol() == " ");
    MOST - u16::try_from((0..MOST).rev().take_while(is_blank).count()).unwrap_or(0)
}
