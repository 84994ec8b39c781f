//! `cargo xtask tidy`: the project's own rules, read off the tree. Every rule is a pure function from
//! texts to findings and has a test that shows it failing; this file only fetches and collects. The
//! same rules run in `cargo test`, through the test at the end of this file.

mod controls;
mod hygiene;
mod imports;
mod pages;
mod promises;
mod seams;
mod source;
mod supply;

use std::{collections::BTreeMap, fmt, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A breach of a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    /// File, and line where there is one.
    at: String,
    /// What is wrong and what to do.
    says: String,
}

impl Finding {
    fn new(path: impl fmt::Display, says: impl Into<String>) -> Self {
        Self { at: path.to_string(), says: says.into() }
    }

    fn line(path: &str, line: usize, says: impl Into<String>) -> Self {
        Self::new(format_args!("{path}:{line}"), says)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.says)
    }
}

/// The project's text files by path from the workspace root.
pub type Tree = BTreeMap<String, String>;

/// Prints every breach; true if there is none.
pub fn report(root: &Path) -> Result<bool> {
    let found = findings(root)?;
    for finding in &found {
        eprintln!("tidy: {finding}");
    }
    eprintln!(
        "tidy: {}",
        if found.is_empty() { "clean".to_owned() } else { format!("{} findings", found.len()) }
    );
    Ok(found.is_empty())
}

fn findings(root: &Path) -> Result<Vec<Finding>> {
    let mut tree = Tree::new();
    read_tree(root, root, &mut tree)?;
    let metadata = metadata(root)?;
    let mut found = [
        hygiene::check(&tree),
        seams::check(&tree),
        promises::check(&tree),
        pages::check(&tree),
        controls::check(&metadata),
        imports::check(&metadata),
        supply::check(&metadata),
    ]
    .concat();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Reads every text file below `dir`, leaving out what cargo and git keep.
fn read_tree(root: &Path, dir: &Path, tree: &mut Tree) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "target"
            || (name.starts_with('.') && !matches!(name.as_str(), ".ci" | ".cargo" | ".github"))
        {
            continue;
        }
        if path.is_dir() {
            read_tree(root, &path, tree)?;
            continue;
        }
        let relative =
            path.strip_prefix(root).context("a path outside the tree")?.to_string_lossy().replace('\\', "/");
        if let Ok(text) = fs::read_to_string(&path) {
            tree.insert(relative, text);
        }
    }
    Ok(())
}

/// What cargo knows of every package that is built here.
fn metadata(root: &Path) -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let rustc = Command::new("rustc").arg("-vV").output().context("cannot run rustc -vV")?;
    let said = String::from_utf8_lossy(&rustc.stdout).into_owned();
    let host =
        said.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    let args = ["metadata", "--format-version", "1", "--locked", "--filter-platform", host];
    let output =
        Command::new(cargo).args(args).current_dir(root).output().context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree keeps every rule: this is what makes `cargo test --workspace` include tidy.
    #[test]
    fn the_tree_is_tidy() {
        let found = findings(&crate::root()).unwrap();
        let lines: Vec<String> = found.iter().map(Finding::to_string).collect();
        assert!(lines.is_empty(), "{} findings:\n{}", lines.len(), lines.join("\n"));
    }

    #[test]
    fn a_finding_names_file_and_line_first() {
        assert_eq!(Finding::line("a.rs", 3, "is wrong").to_string(), "a.rs:3: is wrong");
    }
}
