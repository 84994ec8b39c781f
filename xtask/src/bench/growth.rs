//! What is printed and saved of the sweeps: a table and a picture of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde::Serialize;

use super::{
    curve,
    figures::Spread,
    machine::{self, Machine},
    sweeps::{Measured, Sweep},
};

/// The whole result.
#[derive(Serialize)]
pub struct Growth<'a> {
    machine: Machine,
    runs: usize,
    failures: usize,
    sweeps: Vec<SweepReport<'a>>,
}

#[derive(Serialize)]
struct SweepReport<'a> {
    name: &'a str,
    work: &'a str,
    axis: &'a str,
    /// Rising.
    points: Vec<PointReport>,
}

#[derive(Serialize)]
struct PointReport {
    at: u64,
    figures: BTreeMap<String, Spread>,
    /// Why there are none.
    missing: Option<String>,
}

impl<'a> Growth<'a> {
    /// Sums up.
    pub fn new(machine: Machine, sweeps: &'a [Sweep], measured: &Measured, runs: usize) -> Self {
        let sweeps = sweeps.iter().map(|sweep| SweepReport::new(sweep, measured)).collect();
        Self { machine, runs, failures: measured.failures, sweeps }
    }

    /// Prints a table for each.
    pub fn print(&self) {
        self.machine.describe(self.runs).iter().for_each(|line| println!("{line}"));
        for sweep in &self.sweeps {
            println!("\n== {}\n   {}", sweep.name, sweep.work);
            for line in sweep.lines() {
                println!("   {}", line.iter().map(|cell| format!("{cell:<30}")).collect::<String>().trim());
            }
        }
        println!("\n{} runs failed", self.failures);
    }

    /// Writes it into the folder of results: all as JSON, all tables in one page, a picture for each; where.
    pub fn save(&self, root: &Path) -> Result<PathBuf> {
        let path = machine::unused(root, "-sweeps")?;
        std::fs::write(path.with_extension("md"), self.page())?;
        for sweep in &self.sweeps {
            let mut name = path.clone().into_os_string();
            name.push(format!("-{}.svg", sweep.name));
            std::fs::write(name, curve::svg(sweep.name, sweep.axis, &sweep.curves()))?;
        }
        let path = path.with_extension("json");
        std::fs::write(&path, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(path)
    }

    fn page(&self) -> String {
        let mut text = self.machine.describe(self.runs).join("; ") + ".\n";
        for sweep in &self.sweeps {
            text += &format!("\n## {}\n\n{}.\n\n", sweep.name, sweep.work);
            for (n, line) in sweep.lines().into_iter().enumerate() {
                text += &format!("| {} |\n", line.join(" | "));
                if n == 0 {
                    text += &format!("|{}\n", "---|".repeat(line.len()));
                }
            }
        }
        text
    }
}

impl<'a> SweepReport<'a> {
    fn new(sweep: &'a Sweep, measured: &Measured) -> Self {
        let point = |at: &u64| {
            let key = (sweep.name.clone(), *at);
            let samples = measured.samples.get(&key);
            let spread = |samples: &super::figures::Samples, figure: &String| {
                Some((figure.clone(), samples.spread(figure)?))
            };
            let figures = samples.map(|s| s.names().filter_map(|f| spread(s, f)).collect());
            let missing = measured.missing.get(&key).cloned();
            PointReport { at: *at, figures: figures.unwrap_or_default(), missing }
        };
        let points = sweep.points.iter().map(point).collect();
        Self { name: &sweep.name, work: &sweep.work, axis: &sweep.axis, points }
    }

    /// Every figure that any point has.
    fn figures(&self) -> BTreeSet<&String> {
        self.points.iter().flat_map(|point| point.figures.keys()).collect()
    }

    /// The table: what grows, then a column for each figure.
    fn lines(&self) -> Vec<Vec<String>> {
        let figures = self.figures();
        let head = std::iter::once(self.axis.to_owned()).chain(figures.iter().map(|name| (*name).clone()));
        let mut lines = vec![head.collect::<Vec<_>>()];
        for point in &self.points {
            let cell = |(n, name): (usize, &&String)| match (point.figures.get(*name), &point.missing) {
                (Some(spread), _) => spread.show(),
                (None, Some(why)) if n == 0 => format!("missing: {why}"),
                (None, _) => "–".into(),
            };
            let cells = figures.iter().enumerate().map(cell);
            lines.push(std::iter::once(grouped(point.at)).chain(cells).collect());
        }
        lines
    }

    fn curves(&self) -> Vec<curve::Curve> {
        let curve = |name: &String| {
            let point = |p: &PointReport| Some((p.at, *p.figures.get(name)?));
            curve::Curve { name: name.clone(), points: self.points.iter().filter_map(point).collect() }
        };
        self.figures().into_iter().map(curve).collect()
    }
}

/// A number with its thousands apart.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let mut text = digits[..first].to_owned();
    for (at, digit) in digits[first..].chars().enumerate() {
        if at % 3 == 0 && !text.is_empty() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::figures::Samples, *};

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(
            [1, 16, 128, 1024, 16_384, 10_000_000].map(grouped),
            ["1", "16", "128", "1,024", "16,384", "10,000,000"]
        );
    }

    /// Every point has a line: with medians, or with the reason why there are none.
    #[test]
    fn a_sweep_is_a_table_with_a_line_for_every_point() {
        let sweep = Sweep {
            name: "grains".into(),
            work: "asks".into(),
            axis: "grains".into(),
            points: vec![1000, 2000, 3000],
        };
        let mut measured = Measured::default();
        let mut samples = Samples::default();
        samples.add(0, BTreeMap::from([("per_s".to_owned(), 5.0), ("us".to_owned(), 1.0)]));
        measured.samples.insert(("grains".into(), 1000), samples);
        measured.missing.insert(("grains".into(), 3000), "too large".into());
        let report = SweepReport::new(&sweep, &measured);
        assert_eq!(
            report.lines(),
            [
                ["grains", "per_s", "us"],
                ["1,000", "5.00 (5.00 .. 5.00)", "1.00 (1.00 .. 1.00)"],
                ["2,000", "–", "–"],
                ["3,000", "missing: too large", "–"],
            ]
        );
        assert_eq!(report.curves().len(), 2);
        assert_eq!(report.curves()[0].points.len(), 1);
    }
}
