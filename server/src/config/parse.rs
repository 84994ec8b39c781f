//! From text to settings, with errors that say where.

use toml::de::{DeTable, DeValue};

use super::{ClusterSettings, Config, NodeSettings};

/// Why settings were refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {file}: {why}")]
    Unreadable {
        /// Which.
        file: String,
        /// What the system said.
        why: String,
    },
    /// The file is not TOML.
    #[error("{at}: {why}")]
    Syntax {
        /// `file:line`.
        at: String,
        /// What is wrong.
        why: String,
    },
    /// No such key.
    #[error("{at}: unknown key {key}; did you mean {nearest}?")]
    UnknownKey {
        /// `file:line`, or the environment variable.
        at: String,
        /// As written.
        key: String,
        /// The known key that looks most like it.
        nearest: String,
    },
    /// A value of the wrong kind.
    #[error("{at}: {key} {why}")]
    BadValue {
        /// `file:line`, or the environment variable.
        at: String,
        /// Which key.
        key: String,
        /// What it wants and what it got.
        why: String,
    },
    /// Settings contradict each other.
    #[error("{rule}")]
    Contradiction {
        /// The rule, with the numbers.
        rule: String,
    },
}

const PREFIX: &str = "MILLET_";

pub(super) fn file(config: &mut Config, name: &str, text: &str) -> Result<(), ConfigError> {
    let at = |byte: usize| {
        let line = 1 + text.as_bytes().iter().take(byte).filter(|b| **b == b'\n').count();
        format!("{name}:{line}")
    };
    let table = DeTable::parse(text).map_err(|e| ConfigError::Syntax {
        at: at(e.span().map_or(0, |s| s.start)),
        why: e.message().to_owned(),
    })?;
    for (section, value) in table.get_ref() {
        let section_at = at(section.span().start);
        let section = section.get_ref().as_ref();
        let known = [ClusterSettings::SECTION, NodeSettings::SECTION];
        if !known.contains(&section) {
            return Err(unknown(section_at, section.to_owned(), known.into_iter().map(|s| format!("[{s}]"))));
        }
        let DeValue::Table(keys) = value.get_ref() else {
            let why = format!("must be a section; write [{section}]");
            return Err(ConfigError::BadValue { at: section_at, key: section.to_owned(), why });
        };
        for (key, value) in keys {
            let key_at = at(key.span().start);
            let key = key.get_ref().as_ref();
            set(config, section, key, key_at, |c, n| match (c, n) {
                (Some(c), _) => c.set_toml(key, value.get_ref()),
                (_, Some(n)) => n.set_toml(key, value.get_ref()),
                (None, None) => Ok(()),
            })?;
        }
    }
    Ok(())
}

pub(super) fn environment(
    config: &mut Config,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    for (variable, text) in env {
        let Some(rest) = variable.strip_prefix(PREFIX) else { continue };
        let rest = rest.to_ascii_lowercase();
        // Other variables of ours (MILLET_LOG, …) are not settings.
        let Some((section, key)) = [ClusterSettings::SECTION, NodeSettings::SECTION]
            .iter()
            .find_map(|s| Some((*s, rest.strip_prefix(s)?.strip_prefix('_')?)))
        else {
            continue;
        };
        set(config, section, key, variable.clone(), |c, n| match (c, n) {
            (Some(c), _) => c.set_env(key, &text),
            (_, Some(n)) => n.set_env(key, &text),
            (None, None) => Ok(()),
        })?;
    }
    Ok(())
}

fn set(
    config: &mut Config,
    section: &str,
    key: &str,
    at: String,
    apply: impl FnOnce(Option<&mut ClusterSettings>, Option<&mut NodeSettings>) -> Result<(), String>,
) -> Result<(), ConfigError> {
    let cluster = section == ClusterSettings::SECTION;
    let names = if cluster { ClusterSettings::NAMES } else { NodeSettings::NAMES };
    let full = format!("{section}.{key}");
    if !names.contains(&key) {
        return Err(unknown(at, full, names.iter().map(|n| format!("{section}.{n}"))));
    }
    let done =
        if cluster { apply(Some(&mut config.cluster), None) } else { apply(None, Some(&mut config.node)) };
    done.map_err(|why| ConfigError::BadValue { at, key: full, why })
}

fn unknown(at: String, key: String, known: impl Iterator<Item = String>) -> ConfigError {
    let nearest = known.min_by_key(|k| distance(&key, k)).unwrap_or_default();
    ConfigError::UnknownKey { at, key, nearest }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
