//! Programs of others that do the same work, in their own harness in `shared/peers` beside this folder:
//! found only where somebody has put and built them. `BIN` names another folder of its programs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    passes::bounded,
    rows::{Peer, Row},
};

/// A peer's run that takes longer has hung; some take a million actors of 8 KB.
const LIMIT: Duration = Duration::from_secs(180);

/// The harness.
pub struct Peers {
    folder: PathBuf,
    bin: PathBuf,
}

impl Peers {
    /// Where it is, if it is there and built; says which.
    pub fn find(root: &Path) -> Option<Self> {
        let folder = root.parent()?.join("shared/peers");
        if !folder.join("run.py").is_file() {
            eprintln!("peers: none beside this folder; their rows are left out");
            return None;
        }
        let bin = std::env::var_os("BIN").map_or_else(|| folder.join("target/bin"), PathBuf::from);
        if !bin.is_dir() {
            eprintln!("peers: found, but not built (build.sh there, or set BIN); their rows are left out");
            return None;
        }
        Some(Self { folder, bin })
    }

    /// Runs the peers of a row once each; their figures under our names.
    pub fn run(&self, row: &Row) -> Vec<(String, Result<BTreeMap<String, f64>>)> {
        row.peers.iter().map(|peer| (peer.name.clone(), self.one(peer))).collect()
    }

    fn one(&self, peer: &Peer) -> Result<BTreeMap<String, f64>> {
        // Their harness adds to a file; a fresh one per run, so that it holds this run and no other.
        let results = std::env::temp_dir().join(format!("millet-peers-{}.jsonl", std::process::id()));
        let _ = std::fs::remove_file(&results);
        let mut command = Command::new("python3");
        command.arg(self.folder.join("run.py")).args([&peer.row, "-n", "1"]);
        command.env("BIN", &self.bin).env("RESULTS", &results);
        let told = bounded(&mut command, LIMIT)
            .and_then(|_| std::fs::read_to_string(&results).context("it has measured nothing"));
        let _ = std::fs::remove_file(&results);
        figure(peer, &told?)
    }
}

/// Their last line's figure, under our name and in our unit.
fn figure(peer: &Peer, lines: &str) -> Result<BTreeMap<String, f64>> {
    let line = lines.lines().last().context("it has measured nothing")?;
    let line: Value = serde_json::from_str(line)?;
    let value = line[&peer.theirs].as_f64();
    let value = value.with_context(|| format!("{} tells no {}", peer.row, peer.theirs))?;
    ensure!(value.is_finite(), "{} is {value}", peer.theirs);
    Ok(BTreeMap::from([(peer.figure.clone(), value * peer.scale)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_figure_gets_our_name_and_unit() {
        let peer = Peer {
            name: "actix".into(),
            row: "g/p_actix/tell/1".into(),
            figure: "p1_ms".into(),
            theirs: "ns_per_round".into(),
            scale: 1e-6,
        };
        let figures = figure(&peer, "{\"ns_per_round\": 2}\n{\"ns_per_round\": 4000000}\n").unwrap();
        assert_eq!(figures, BTreeMap::from([("p1_ms".to_owned(), 4.0)]));
        assert!(figure(&peer, "{\"wall_s\": 1}").is_err());
        assert!(figure(&peer, "").is_err());
    }
}
