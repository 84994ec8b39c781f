//! The picture of a result: a bar for every side of every row, ours in another colour. Lengths are
//! logarithmic within a row, because a floor may be ten times a peer. Pure.

use std::fmt::Write as _;

/// One row's bars.
pub struct Row {
    pub name: String,
    /// Whose, how much; ours first.
    pub bars: Vec<(String, f64)>,
}

/// Of every picture.
pub const WIDTH: f64 = 760.0;
/// Of what is ours.
pub const OURS: &str = "#b45309";
/// Where bars begin, and the longest of them.
const LEFT: f64 = 190.0;
const LONGEST: f64 = 440.0;
const LINE: f64 = 18.0;
/// A bar this many times shorter than the longest has no length left.
const SPAN: f64 = 1000.0;

/// The picture.
pub fn svg(rows: &[Row]) -> String {
    let lines: usize = rows.iter().map(|row| row.bars.len() + 2).sum();
    let height = LINE * (lines as f64 + 1.0);
    let mut text = open(height);
    let mut y = LINE;
    for row in rows {
        put(&mut text, 8.0, y, &row.name, " font-weight=\"bold\"");
        y += LINE;
        let longest = row.bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        for (n, (side, value)) in row.bars.iter().enumerate() {
            let colour = if n == 0 { OURS } else { "#94a3b8" };
            let length = length(*value, longest);
            put(&mut text, 16.0, y, side, "");
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"12\" fill=\"{colour}\"/>",
                y - 10.0
            );
            put(&mut text, LEFT + length + 6.0, y, &super::report::short(*value), "");
            y += LINE;
        }
        y += LINE;
    }
    text + "</svg>\n"
}

/// The beginning of a picture of this height; `</svg>` ends it.
pub fn open(height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    )
}

fn length(value: f64, longest: f64) -> f64 {
    let part = 1.0 + (value / longest).max(1.0 / SPAN).log10() / SPAN.log10();
    (LONGEST * part).max(1.0)
}

/// Writes words into it.
pub fn put(text: &mut String, x: f64, y: f64, words: &str, more: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{y:.1}\"{more}>{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_has_a_bar_and_a_tenth_is_a_third_shorter() {
        let row = Row { name: "a & b".into(), bars: vec![("ours".into(), 10.0), ("<other>".into(), 1.0)] };
        let text = svg(&[row]);
        assert_eq!(text.matches("<rect x=").count(), 2);
        assert!(text.contains("a &amp; b") && text.contains("&lt;other>"), "{text}");
        assert!(text.contains("width=\"440.0\"") && text.contains("width=\"293.3\""), "{text}");
    }
}
