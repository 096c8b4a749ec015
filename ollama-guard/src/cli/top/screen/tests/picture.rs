//! The picture in the documentation: `cargo xtask picture` draws it anew.

use std::{fmt::Write as _, fs, path::Path};

use ratatui::{
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
};

use super::{drawn, model};
use crate::cli::top::{theme::Theme, view::View};

/// Says that the picture is to be written, and not compared.
const RECORD: &str = "OLLAMA_GUARD_RECORD";
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/top.svg");

/// A cell in pixels, and the room around all of them.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 19.0;
const EDGE: f64 = 12.0;

const PAPER: &str = "#16181d";
const INK: &str = "#d7dae0";
const FAINT: &str = "#8b909b";

#[test]
fn the_picture_in_the_documentation_is_the_screen() {
    let buffer = drawn(&model(), &View::default(), 100, 24, Theme { is_coloured: true });
    let picture = svg(&buffer);
    if is_recording() {
        fs::write(PICTURE, &picture).unwrap();
    }
    let found = fs::read_to_string(Path::new(PICTURE)).unwrap_or_default();
    assert!(found == picture, "{PICTURE} is another screen: run `cargo xtask picture`");
}

pub(super) fn is_recording() -> bool {
    std::env::var_os(RECORD).is_some()
}

fn svg(buffer: &Buffer) -> String {
    let (columns, rows) = (buffer.area.width, buffer.area.height);
    let (width, height) =
        (f64::from(columns) * WIDTH + 2.0 * EDGE, f64::from(rows) * HEIGHT + 2.0 * EDGE);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.1} {height:.1}\" font-family=\"ui-monospace,Menlo,Consolas,'DejaVu \
         Sans Mono',monospace\" font-size=\"14\">\n<title>ollama-guard top</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{PAPER}\"/>\n"
    );
    for y in 0..rows {
        let mut x = 0;
        while x < columns {
            let first = &buffer[(x, y)];
            let end = (x..columns)
                .find(|&at| {
                    let cell = &buffer[(at, y)];
                    (cell.fg, cell.modifier) != (first.fg, first.modifier)
                })
                .unwrap_or(columns);
            let letters: String = (x..end).map(|at| buffer[(at, y)].symbol()).collect();
            run(&mut out, first, &letters, x, y);
            x = end;
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Letters of one style, which fill their cells whatever the font is.
fn run(out: &mut String, cell: &Cell, letters: &str, x: u16, y: u16) {
    let is_reversed = cell.modifier.contains(Modifier::REVERSED);
    let (left, top) = (EDGE + f64::from(x) * WIDTH, EDGE + f64::from(y) * HEIGHT);
    let width = letters.chars().count() as f64 * WIDTH;
    if is_reversed {
        let _ = writeln!(
            out,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{HEIGHT}\" \
             fill=\"{INK}\"/>"
        );
    }
    // What is blank at the ends is not drawn.
    let text = letters.trim_end();
    if text.trim().is_empty() {
        return;
    }
    let skipped = (text.chars().count() - text.trim_start().chars().count()) as f64 * WIDTH;
    let text = text.trim_start();
    let ink = match (is_reversed, cell.fg) {
        (true, _) => PAPER,
        (_, Color::Green) => "#7fc77f",
        (_, Color::Red) => "#f07178",
        (_, Color::Yellow) => "#e6c07b",
        _ if cell.modifier.contains(Modifier::DIM) => FAINT,
        _ => INK,
    };
    let weight = if cell.modifier.contains(Modifier::BOLD) { " font-weight=\"bold\"" } else { "" };
    let length = text.chars().count() as f64 * WIDTH;
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{ink}\"{weight} textLength=\"{length:.1}\" \
         lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\">{text}</text>",
        left + skipped,
        top + 14.0,
    );
}
