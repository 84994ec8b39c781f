//! What a row is: the work, the sides that do it, the goals, and the peers' programs that do the same.
//!
//! The runner (`cargo xtask bench`) reads all of this as JSON; it knows no row by name.

use anyhow::Result;
use serde::Serialize;

/// What one run of one side gives: figures by name. Names are shared by all sides of a row.
pub type Figures = Vec<(&'static str, f64)>;

/// How much work a run does.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The small form: shows that the row runs, measures nothing.
    pub smoke: bool,
}

impl Size {
    /// So much in full, so much in the small form.
    pub fn of(self, full: u64, small: u64) -> u64 {
        if self.smoke { small } else { full }
    }
}

/// One line of the table.
#[derive(Serialize)]
pub struct Row {
    /// As it is asked for on the command line.
    pub name: &'static str,
    /// Exactly what work is done, and what the figures are.
    pub work: &'static str,
    /// Who does it; the first is ours, the others are floors.
    pub sides: &'static [Side],
    /// What is wanted of ours.
    pub goals: &'static [Goal],
    /// Programs of others that do the same work.
    pub peers: &'static [Peer],
    /// What the row should have and has not, and why.
    pub missing: &'static [&'static str],
}

/// Somebody who does a row's work.
#[derive(Serialize)]
pub struct Side {
    /// Its name in the table.
    pub name: &'static str,
    /// Does the work once, in a process of its own.
    #[serde(skip)]
    pub run: fn(Size) -> Result<Figures>,
    /// A program that must be installed.
    needs: Option<&'static str>,
}

impl Side {
    /// One that needs nothing else.
    pub const fn new(name: &'static str, run: fn(Size) -> Result<Figures>) -> Self {
        Self { name, run, needs: None }
    }

    /// One that starts this program.
    pub const fn needs(mut self, program: &'static str) -> Self {
        self.needs = Some(program);
        self
    }
}

/// What is wanted of a figure of ours: a number, or a multiple of the same figure of another side.
#[derive(Serialize)]
pub struct Goal {
    figure: &'static str,
    /// The side whose figure it is; none: the first.
    by: Option<&'static str>,
    /// The side or peer whose figure is multiplied; none: the bound is the figure itself.
    of: Option<&'static str>,
    at_least: Option<f64>,
    at_most: Option<f64>,
}

impl Goal {
    /// The figure is this or more.
    pub const fn at_least(figure: &'static str, bound: f64) -> Self {
        Self { figure, by: None, of: None, at_least: Some(bound), at_most: None }
    }

    /// The figure is this or less.
    pub const fn at_most(figure: &'static str, bound: f64) -> Self {
        Self { figure, by: None, of: None, at_least: None, at_most: Some(bound) }
    }

    /// The figure is another side's of ours.
    pub const fn by(mut self, side: &'static str) -> Self {
        self.by = Some(side);
        self
    }

    /// The bound is a multiple of what this side or peer has.
    pub const fn times(mut self, side: &'static str) -> Self {
        self.of = Some(side);
        self
    }
}

/// A row of the peers' own harness.
#[derive(Serialize)]
pub struct Peer {
    /// Whose.
    pub name: &'static str,
    /// Its row in their harness.
    pub row: &'static str,
    /// Which figure of ours it stands beside.
    pub figure: &'static str,
    /// The name they give it.
    pub theirs: &'static str,
    /// Theirs times this is in our unit.
    pub scale: f64,
}

impl Peer {
    /// A peer's asks, messages or activations a second.
    pub const fn per_s(name: &'static str, row: &'static str) -> Self {
        Self { name, row, figure: "per_s", theirs: "ops_per_s", scale: 1.0 }
    }

    /// A peer's median latency.
    pub const fn p50(name: &'static str, row: &'static str) -> Self {
        Self { name, row, figure: "p50_us", theirs: "p50_us", scale: 1.0 }
    }

    /// The same number beside another figure of ours.
    pub const fn beside(mut self, figure: &'static str) -> Self {
        self.figure = figure;
        self
    }
}
