//! Medians, spread, ratios. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::rows::Goal;

/// What the runs of one side gave: per figure, the value of every pass.
#[derive(Default, Debug)]
pub struct Samples(BTreeMap<String, BTreeMap<usize, f64>>);

/// Median and extremes.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Samples {
    /// Adds what one pass gave.
    pub fn add(&mut self, pass: usize, figures: BTreeMap<String, f64>) {
        for (name, value) in figures {
            self.0.entry(name).or_default().insert(pass, value);
        }
    }

    /// The figures' names.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// One figure over all passes.
    pub fn spread(&self, figure: &str) -> Option<Spread> {
        spread(self.0.get(figure)?.values().copied().collect())
    }

    /// One figure as a multiple of another side's, pass by pass: what drifts drifts for both.
    pub fn over(&self, other: &Self, figure: &str) -> Option<Spread> {
        let (ours, theirs) = (self.0.get(figure)?, other.0.get(figure)?);
        let pairs = ours.iter().filter_map(|(pass, value)| Some((value, theirs.get(pass)?)));
        spread(pairs.filter(|(_, theirs)| **theirs != 0.0).map(|(ours, theirs)| ours / theirs).collect())
    }
}

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    };
    Some(Spread { median, min, max })
}

/// A goal and how it stands.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Judged {
    pub figure: String,
    pub goal: String,
    /// The figure, or its ratio to the side the goal names.
    pub value: Option<f64>,
    pub met: Option<bool>,
}

/// Holds the median of ours (or of its ratio) against the bound; without the figures there is no judgement.
pub fn judge(goal: &Goal, ours: Option<&Samples>, other: Option<&Samples>) -> Judged {
    let value = match &goal.of {
        None => ours.and_then(|o| o.spread(&goal.figure)),
        Some(_) => ours.zip(other).and_then(|(ours, other)| ours.over(other, &goal.figure)),
    };
    let value = value.map(|v| v.median);
    let (sign, bound) = match (goal.at_least, goal.at_most) {
        (Some(least), _) => (">=", least),
        (None, most) => ("<=", most.unwrap_or(f64::INFINITY)),
    };
    let times = goal.of.as_ref().map(|of| format!(" x {of}")).unwrap_or_default();
    let met = value.map(|v| goal.at_least.is_none_or(|b| v >= b) && goal.at_most.is_none_or(|b| v <= b));
    let by = goal.by.as_ref().map(|by| format!("{by}, ")).unwrap_or_default();
    let said = format!("{by}{} {sign} {bound}{times}", goal.figure);
    Judged { figure: goal.figure.clone(), goal: said, value, met }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        let mut samples = Samples::default();
        for (pass, value) in values.iter().enumerate() {
            samples.add(pass, BTreeMap::from([("per_s".to_owned(), *value)]));
        }
        samples
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let odd = samples(&[3.0, 1.0, 2.0]).spread("per_s").unwrap();
        assert_eq!(odd, Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(samples(&[1.0, 2.0]).spread("per_s").unwrap().median, 1.5);
        assert_eq!(samples(&[]).spread("per_s"), None);
    }

    /// A machine that slows down for one pass slows both: the ratio stays.
    #[test]
    fn ratios_are_taken_pass_by_pass() {
        let ours = samples(&[10.0, 1.0, 10.0]);
        let floor = samples(&[20.0, 2.0, 20.0]);
        assert_eq!(ours.over(&floor, "per_s").unwrap(), Spread { median: 0.5, min: 0.5, max: 0.5 });
    }

    #[test]
    fn a_goal_is_met_missed_or_not_judged() {
        let goal = Goal {
            figure: "per_s".into(),
            by: None,
            of: Some("floor".into()),
            at_least: Some(0.7),
            at_most: None,
        };
        let (ours, floor) = (samples(&[6.0]), samples(&[10.0]));
        let judged = judge(&goal, Some(&ours), Some(&floor));
        assert_eq!((judged.met, judged.goal.as_str()), (Some(false), "per_s >= 0.7 x floor"));
        assert_eq!(judge(&goal, Some(&floor), Some(&floor)).met, Some(true));
        assert_eq!(judge(&goal, Some(&ours), None).met, None);
        let most = Goal { figure: "per_s".into(), by: None, of: None, at_least: None, at_most: Some(6.0) };
        assert_eq!(judge(&most, Some(&ours), None).met, Some(true));
    }
}
