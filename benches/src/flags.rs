//! Flags of the form `--name value`; each benchmark asks for those it knows.

use anyhow::{Context, Result, bail};

/// What stood on the command line after the benchmark's name.
#[derive(Debug)]
pub struct Flags(Vec<(String, String)>);

impl Flags {
    /// Reads pairs of `--name value`.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut pairs = Vec::new();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--") else {
                bail!("expected --flag, found {word:?}");
            };
            let value = words.next().with_context(|| format!("--{name} needs a value"))?;
            pairs.push((name.to_owned(), value));
        }
        Ok(Self(pairs))
    }

    /// Refuses flags that the benchmark does not know.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => bail!("unknown flag --{name}; known: {}", known.join(", ")),
            None => Ok(()),
        }
    }

    /// The number after `--name`, or the default.
    pub fn number(&self, name: &str, default: u64) -> Result<u64> {
        match self.0.iter().rev().find(|(given, _)| given == name) {
            Some((_, value)) => {
                value.replace('_', "").parse().with_context(|| format!("--{name} {value:?} is not a number"))
            }
            None => Ok(default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(words: &[&str]) -> Result<Flags> {
        Flags::parse(words.iter().map(|&word| word.to_owned()))
    }

    #[test]
    fn a_number_is_read_and_has_a_default() {
        let flags = flags(&["--grains", "1_000"]).unwrap();
        assert_eq!(flags.number("grains", 5).unwrap(), 1000);
        assert_eq!(flags.number("rounds", 5).unwrap(), 5);
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        assert!(flags(&["grains"]).unwrap_err().to_string().contains("\"grains\""));
        assert!(flags(&["--grains"]).unwrap_err().to_string().contains("--grains"));
        assert!(
            flags(&["--grain", "1"]).unwrap().only(&["grains"]).unwrap_err().to_string().contains("--grain;")
        );
        assert!(flags(&["--grains", "x"]).unwrap().number("grains", 1).is_err());
    }
}
