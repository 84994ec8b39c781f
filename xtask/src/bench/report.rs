//! What is printed, and what is saved: the machine, every row's figures, ratios and goals.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde::Serialize;

use super::{
    figures::{Judged, Samples, Spread, judge},
    machine::{self, Machine},
    passes::Measured,
    plot,
    rows::{Goal, Row},
};

/// The whole result.
#[derive(Serialize)]
pub struct Report<'a> {
    machine: Machine,
    runs: usize,
    failures: usize,
    rows: Vec<RowReport<'a>>,
}

#[derive(Serialize)]
struct RowReport<'a> {
    name: &'a str,
    work: &'a str,
    /// Ours first, floors, peers; by figure.
    sides: Vec<SideReport<'a>>,
    goals: Vec<Judged>,
    missing: &'a [String],
}

#[derive(Serialize)]
struct SideReport<'a> {
    name: &'a str,
    figures: BTreeMap<String, Spread>,
    /// Ours as a multiple of this side's, pass by pass.
    ours_over_it: BTreeMap<String, Spread>,
}

impl<'a> Report<'a> {
    /// Sums up.
    pub fn new(machine: Machine, rows: &'a [Row], measured: &Measured, runs: usize) -> Self {
        let rows = rows.iter().map(|row| RowReport::new(row, &measured.samples)).collect();
        Self { machine, runs, failures: measured.failures, rows }
    }

    /// Prints the table.
    pub fn print(&self) {
        self.machine.describe(self.runs).iter().for_each(|line| println!("{line}"));
        self.rows.iter().for_each(RowReport::print);
        let judged = || self.rows.iter().flat_map(|row| &row.goals);
        let count = |met| judged().filter(|goal| goal.met == met).count();
        println!(
            "\ngoals: {} met, {} missed, {} not judged; {} runs failed",
            count(Some(true)),
            count(Some(false)),
            count(None),
            self.failures
        );
    }

    /// Writes it into the folder of results, as JSON, as a table and as a plot; where.
    pub fn save(&self, root: &Path) -> Result<PathBuf> {
        let path = machine::unused(root, "")?;
        std::fs::write(path.with_extension("md"), self.table())?;
        std::fs::write(path.with_extension("svg"), plot::svg(&self.bars()))?;
        let path = path.with_extension("json");
        std::fs::write(&path, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(path)
    }

    /// Medians, ratios and goals as a table in Markdown.
    fn table(&self) -> String {
        let mut text = self.machine.describe(self.runs).join("; ");
        text += ".\n\n| row | figure | side | median (min .. max) | ours / it |\n|---|---|---|---|---|\n";
        for row in &self.rows {
            for figure in row.judged() {
                for side in &row.sides {
                    let Some(spread) = side.figures.get(figure) else { continue };
                    let ratio = side.ours_over_it.get(figure).map(Spread::show).unwrap_or_default();
                    let line = [row.name, figure, side.name, &spread.show(), &ratio].join(" | ");
                    text += &format!("| {line} |\n");
                }
            }
        }
        text += "\n| row | goal | value | |\n|---|---|---|---|\n";
        for row in &self.rows {
            for Judged { goal, value, met, .. } in &row.goals {
                let met = met.map_or("not judged", |met| if met { "met" } else { "missed" });
                let value = value.map(short).unwrap_or_default();
                text += &format!("| {} | {goal} | {value} | {met} |\n", row.name);
            }
        }
        text
    }

    /// The first figure of every row that others have, too.
    fn bars(&self) -> Vec<plot::Row> {
        let of = |row: &RowReport<'_>| {
            let figure = row.judged().into_iter().next()?;
            let bars =
                row.sides.iter().filter_map(|s| Some((s.name.to_owned(), s.figures.get(figure)?.median)));
            let bars: Vec<_> = bars.collect();
            (bars.len() > 1).then(|| plot::Row { name: format!("{}, {figure}", row.name), bars })
        };
        self.rows.iter().filter_map(of).collect()
    }
}

impl<'a> RowReport<'a> {
    fn new(row: &'a Row, samples: &BTreeMap<(String, String), Samples>) -> Self {
        let of = |side: &str| samples.get(&(row.name.clone(), side.to_owned()));
        let ours = row.sides.first().and_then(|side| of(&side.name));
        let mut names: Vec<&str> = row.sides.iter().map(|side| side.name.as_str()).collect();
        for peer in &row.peers {
            if !names.contains(&peer.name.as_str()) {
                names.push(&peer.name);
            }
        }
        let side = |(n, name): (usize, &'a str)| {
            let theirs = of(name)?;
            let spread = |figure: &String| Some((figure.clone(), theirs.spread(figure)?));
            let ratio = |figure: &String| Some((figure.clone(), ours?.over(theirs, figure)?));
            Some(SideReport {
                name,
                figures: theirs.names().filter_map(spread).collect(),
                ours_over_it: theirs.names().filter(|_| n > 0).filter_map(ratio).collect(),
            })
        };
        let sides = names.into_iter().enumerate().filter_map(side).collect();
        let judged =
            |goal: &Goal| judge(goal, goal.by.as_deref().map_or(ours, of), goal.of.as_deref().and_then(of));
        let goals = row.goals.iter().map(judged).collect();
        Self { name: &row.name, work: &row.work, sides, goals, missing: &row.missing }
    }

    /// The figures that goals look at, in their order.
    fn judged(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for goal in &self.goals {
            if !names.contains(&goal.figure.as_str()) {
                names.push(&goal.figure);
            }
        }
        names
    }

    fn print(&self) {
        println!("\n== {}", self.name);
        println!("   {}", self.work);
        for side in &self.sides {
            for (figure, spread) in &side.figures {
                let ratio = side.ours_over_it.get(figure).map(|r| format!("ours / it = {}", r.show()));
                println!(
                    "   {:<24} {figure:<18} {:<36} {}",
                    side.name,
                    spread.show(),
                    ratio.unwrap_or_default()
                );
            }
        }
        for Judged { goal, value, met, .. } in &self.goals {
            let (value, word) = match (value, met) {
                (Some(value), Some(true)) => (short(*value), "met"),
                (Some(value), _) => (short(*value), "MISSED"),
                (None, _) => ("-".into(), "not judged: no such figure in this run"),
            };
            println!("   goal {goal}: {value}, {word}");
        }
        for what in self.missing {
            println!("   missing: {what}");
        }
    }
}

impl Spread {
    /// As it is printed.
    pub fn show(&self) -> String {
        format!("{} ({} .. {})", short(self.median), short(self.min), short(self.max))
    }
}

/// Three digits that matter, thousands and millions by letter.
pub fn short(value: f64) -> String {
    let (value, letter) = match value.abs() {
        a if a >= 1e6 => (value / 1e6, " M"),
        a if a >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        a if a >= 100.0 => 0,
        a if a >= 10.0 => 1,
        a if a >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}{letter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_printed_with_three_digits() {
        assert_eq!(
            [14_123_456.0, 706_000.0, 9_999.0, 42.42, 1.234, 0.0815].map(short),
            ["14.1 M", "706 k", "9999", "42.4", "1.23", "0.082"]
        );
    }

    /// Ours stands beside each floor with a ratio, goals are judged by it or by the side that they name, and a
    /// missing peer judges nothing.
    #[test]
    fn a_row_is_summed_up_with_ratios_and_goals() {
        let row: Row = serde_json::from_str(
            r#"{"name": "ask", "work": "asks", "sides": [{"name": "millet"}, {"name": "floor"}],
                "goals": [{"figure": "per_s", "of": "floor", "at_least": 0.7, "at_most": null},
                          {"figure": "per_s", "by": "floor", "of": null, "at_least": null, "at_most": 9.0},
                          {"figure": "per_s", "of": "peer", "at_least": 6.0, "at_most": null}],
                "peers": [{"name": "peer", "row": "a/p", "figure": "per_s", "theirs": "ops", "scale": 1.0}],
                "missing": []}"#,
        )
        .unwrap();
        let mut samples = BTreeMap::new();
        for (side, value) in [("millet", 8.0), ("floor", 10.0)] {
            let mut one = Samples::default();
            one.add(0, BTreeMap::from([("per_s".to_owned(), value)]));
            samples.insert(("ask".to_owned(), side.to_owned()), one);
        }
        let report = RowReport::new(&row, &samples);
        assert_eq!(report.sides.len(), 2);
        assert!(report.sides[0].ours_over_it.is_empty());
        assert_eq!(report.sides[1].ours_over_it["per_s"].median, 0.8);
        assert_eq!(report.goals.iter().map(|g| g.met).collect::<Vec<_>>(), [Some(true), Some(false), None]);
    }
}
