//! A picture of what a dropped packet costs: horizontal bars, as SVG.

use std::fmt::Write as _;

/// Bars of one unit, the first of which is what the others are compared with.
#[derive(Clone, Debug)]
pub struct Bars {
    /// What they show.
    pub title: String,
    /// Name and length of each.
    pub rows: Vec<(String, f64)>,
}

const WIDTH: f64 = 760.0;
/// Room for the names, and for the numbers behind the bars.
const NAMES: f64 = 250.0;
const NUMBERS: f64 = 70.0;
const ROW: f64 = 22.0;
const BAR: f64 = 14.0;
const TITLE: f64 = 34.0;

/// All of them, one below the other. Readable on a light and on a dark page.
#[must_use]
pub fn svg(all: &[Bars]) -> String {
    let height: f64 = all.iter().map(|bars| TITLE + bars.rows.len() as f64 * ROW).sum();
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#808080\">\n"
    );
    let mut top = 0.0;
    for bars in all {
        let longest = bars.rows.iter().map(|(_, length)| *length).fold(1.0, f64::max);
        line(&mut text, 0.0, top + 20.0, "font-weight=\"bold\"", &bars.title);
        top += TITLE;
        for (name, length) in &bars.rows {
            let width = length / longest * (WIDTH - NAMES - NUMBERS);
            let ours = name.starts_with("ollama-guard");
            let colour = if ours { "#2f7ed8" } else { "#a0a0a0" };
            line(&mut text, NAMES - 8.0, top + BAR - 2.0, "text-anchor=\"end\"", name);
            // Writing into a string never fails.
            let _ = writeln!(
                text,
                "<rect x=\"{NAMES}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>"
            );
            let number = format!("{length:.0} ns");
            line(&mut text, NAMES + width + 6.0, top + BAR - 2.0, "", &number);
            top += ROW;
        }
    }
    text.push_str("</svg>\n");
    text
}

fn line(text: &mut String, x: f64, y: f64, how: &str, content: &str) {
    let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{y:.1}\" {how}>{content}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share_of_the_longest() {
        let rows = vec![("bare".to_owned(), 100.0), ("ollama-guard".to_owned(), 50.0)];
        let text = svg(&[Bars { title: "drops".into(), rows }]);
        assert!(text.contains("width=\"440.0\"") && text.contains("width=\"220.0\""), "{text}");
        assert_eq!(text.matches("<rect").count(), 2);
        assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"));
    }
}
