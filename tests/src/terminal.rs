//! A picture of what a terminal shows: text as an SVG, for documentation.

use std::fmt::Write as _;

/// Pixels of a character and of a line, of the font below.
const CHARACTER: f64 = 8.4;
const LINE: f64 = 19.0;
const EDGE: f64 = 12.0;

/// Draws lines of text. Those that begin with `# ` are commands, and bright.
#[must_use]
pub fn svg(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let columns = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let width = columns as f64 * CHARACTER + 2.0 * EDGE;
    let height = lines.len() as f64 * LINE + 2.0 * EDGE;
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.1} \
         {height:.1}\" font-family=\"ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace\" \
         font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#16181d\"/>\n"
    );
    for (number, line) in lines.iter().enumerate() {
        let fill = if line.starts_with("# ") { "#d7dae0" } else { "#a7adb8" };
        let baseline = EDGE + (number as f64 + 0.75) * LINE;
        let text = escaped(line);
        // As wide as the columns, whichever font it is.
        let length = line.chars().count() as f64 * CHARACTER;
        let _ = writeln!(
            picture,
            "<text x=\"{EDGE}\" y=\"{baseline:.1}\" fill=\"{fill}\" textLength=\"{length:.1}\" \
             lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\">{text}</text>"
        );
    }
    picture + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_text_as_wide_as_its_columns() {
        let picture = svg("# kubectl get pods\na <b> & c\n");
        assert_eq!(picture.matches("<text ").count(), 2);
        assert!(picture.contains("fill=\"#d7dae0\" textLength=\"151.2\" lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\"># kubectl get pods<"));
        assert!(picture.contains(">a &lt;b&gt; &amp; c</text>"), "{picture}");
    }
}
