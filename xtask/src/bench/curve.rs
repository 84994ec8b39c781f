//! The picture of a sweep: a panel for each figure, one above the other, over one logarithmic axis of what
//! grows. A figure that differs by more than twenty times is drawn logarithmically, another from zero. Pure.

use std::fmt::Write as _;

use super::{
    figures::Spread,
    growth::grouped,
    plot::{OURS, WIDTH, open, put},
    report::short,
};

/// How one figure grows.
pub struct Curve {
    pub name: String,
    /// Rising.
    pub points: Vec<(u64, Spread)>,
}

/// A panel's own height, what is left between two, and where panels begin and end.
const PANEL: f64 = 120.0;
const GAP: f64 = 44.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = WIDTH - 40.0;
/// From here on a panel from zero would show its largest value only.
const WIDE: f64 = 20.0;

/// The picture.
pub fn svg(name: &str, axis: &str, curves: &[Curve]) -> String {
    let mut text = open(GAP + (PANEL + GAP) * curves.len() as f64);
    put(&mut text, 8.0, 18.0, &format!("{name}: over {axis}"), " font-weight=\"bold\"");
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let Some((least, most)) = points().map(|(at, _)| *at).min().zip(points().map(|(at, _)| *at).max()) else {
        return text + "</svg>\n";
    };
    let across = Scale { from: least as f64, to: most as f64, log: true, start: LEFT, end: RIGHT };
    for (n, curve) in curves.iter().enumerate() {
        panel(&mut text, GAP + (PANEL + GAP) * n as f64, &across, curve);
    }
    text + "</svg>\n"
}

/// Where a value lies between two ends.
struct Scale {
    from: f64,
    to: f64,
    log: bool,
    start: f64,
    end: f64,
}

impl Scale {
    /// Of a figure, in a panel that begins at `top`; larger is higher.
    fn up(curve: &Curve, top: f64) -> Self {
        let least = curve.points.iter().map(|(_, s)| s.min).fold(f64::INFINITY, f64::min);
        let most = curve.points.iter().map(|(_, s)| s.max).fold(f64::NEG_INFINITY, f64::max);
        let log = least > 0.0 && most / least > WIDE;
        Self { from: if log { least } else { least.min(0.0) }, to: most, log, start: top + PANEL, end: top }
    }

    fn at(&self, value: f64) -> f64 {
        let of = |v: f64| if self.log { v.max(f64::MIN_POSITIVE).ln() } else { v };
        let span = of(self.to) - of(self.from);
        let part = if span > 0.0 { (of(value) - of(self.from)) / span } else { 0.5 };
        self.start + (self.end - self.start) * part
    }
}

/// One figure: its frame, a line through the medians, and from the least to the most at every point.
fn panel(text: &mut String, top: f64, across: &Scale, curve: &Curve) {
    let up = Scale::up(curve, top);
    let log = if up.log { ", logarithmic" } else { "" };
    put(text, LEFT, top - 6.0, &format!("{}{log}", curve.name), "");
    line(text, [LEFT, top + PANEL, RIGHT, top + PANEL], "#94a3b8");
    line(text, [LEFT, top, LEFT, top + PANEL], "#94a3b8");
    for value in [up.from, up.to] {
        put(text, LEFT - 6.0, up.at(value) + 4.0, &short(value), " text-anchor=\"end\"");
    }
    let mut through = String::new();
    for (at, spread) in &curve.points {
        let (x, y) = (across.at(*at as f64), up.at(spread.median));
        // Writing to a String does not fail.
        let _ = write!(through, "{x:.1},{y:.1} ");
        line(text, [x, up.at(spread.min), x, up.at(spread.max)], OURS);
        let _ = writeln!(text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{OURS}\"/>");
        put(text, x, top + PANEL + 14.0, &grouped(*at), " text-anchor=\"middle\"");
    }
    let _ = writeln!(text, "<polyline points=\"{}\" fill=\"none\" stroke=\"{OURS}\"/>", through.trim_end());
}

fn line(text: &mut String, [x1, y1, x2, y2]: [f64; 4], colour: &str) {
    let _ = writeln!(
        text,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(name: &str, points: &[(u64, f64)]) -> Curve {
        let spread = |value: f64| Spread { median: value, min: value, max: value };
        Curve { name: name.into(), points: points.iter().map(|(at, value)| (*at, spread(*value))).collect() }
    }

    /// Ten times as much is as far on the axis from 10 to 100 as from 100 to 1,000.
    #[test]
    fn the_axis_is_logarithmic_and_every_point_is_drawn() {
        let text = svg("a & b", "grains", &[curve("per_s", &[(10, 1.0), (100, 2.0), (1000, 3.0)])]);
        assert_eq!(text.matches("<circle").count(), 3);
        assert!(text.contains("points=\"90.0,124.0 405.0,84.0 720.0,44.0\""), "{text}");
        assert!(text.contains("a &amp; b") && !text.contains("logarithmic"), "{text}");
    }

    #[test]
    fn a_wide_figure_is_logarithmic_and_one_without_points_harms_nothing() {
        assert!(svg("x", "y", &[curve("bytes", &[(1, 1.0), (2, 100.0)])]).contains("bytes, logarithmic"));
        assert!(svg("x", "y", &[curve("bytes", &[(1, 0.0)])]).contains("<circle"));
        assert!(svg("x", "y", &[curve("bytes", &[])]).ends_with("</svg>\n"));
    }
}
