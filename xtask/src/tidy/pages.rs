//! The pages that must list everything: errors, configuration keys, and the feature table. Also what
//! the README shows, and links between pages.

use super::{
    Finding, Tree,
    promises::{quoted, row, test_exists},
    source::blank,
};

/// Rows of the feature table.
const FEATURES: u32 = 131;

const ERRORS_SOURCE: &str = "core/src/error.rs";
const ERRORS: &str = "docs/errors.md";
const CONFIG_SOURCE: &str = "server/src/config";
const CONFIG: &str = "docs/config.md";
const FEATURE_PAGE: &str = "docs/features.md";
const README: &str = "README.md";
const README_SOURCE: &str = "samples/hello/src/main.rs";

/// Checks every page.
pub fn check(tree: &Tree) -> Vec<Finding> {
    [errors(tree), config(tree), features(tree), readme(tree), links(tree)].concat()
}

fn errors(tree: &Tree) -> Vec<Finding> {
    let variants = enum_variants(tree.get(ERRORS_SOURCE).map_or("", String::as_str), "ErrorKind");
    let page = tree.get(ERRORS).map_or("", String::as_str);
    if variants.is_empty() {
        return vec![Finding::new(ERRORS_SOURCE, "no enum ErrorKind found; is it somewhere else now?")];
    }
    let missing = variants.iter().filter(|variant| row(page, variant).is_none());
    missing.map(|variant| Finding::new(ERRORS, format!("has no row for ErrorKind::{variant}"))).collect()
}

/// The variants of an enum, by the indentation that rustfmt gives them.
fn enum_variants(text: &str, name: &str) -> Vec<String> {
    let code = blank(text);
    let head = format!("pub enum {name} {{");
    let body = code
        .lines()
        .skip_while(|line| !line.starts_with(&head))
        .skip(1)
        .take_while(|line| !line.starts_with('}'));
    body.filter_map(|line| {
        let inner = line.strip_prefix("    ")?;
        let word: String = inner.chars().take_while(|c| c.is_alphanumeric()).collect();
        word.starts_with(char::is_uppercase).then_some(word)
    })
    .collect()
}

/// Every field of every struct that is read from a configuration file has a row.
fn config(tree: &Tree) -> Vec<Finding> {
    let page = tree.get(CONFIG).map_or("", String::as_str);
    let sources = tree.iter().filter(|(path, _)| path.starts_with(CONFIG_SOURCE) && path.ends_with(".rs"));
    let keys = sources.flat_map(|(_, text)| deserialized_fields(text));
    keys.filter(|key| {
        !page.lines().any(|line| {
            line.starts_with('|')
                && quoted(line).next().is_some_and(|word| word.rsplit('.').next() == Some(key.as_str()))
        })
    })
    .map(|key| Finding::new(CONFIG, format!("has no row for the key {key}")))
    .collect()
}

/// Names of the fields of structs that derive `Deserialize`.
fn deserialized_fields(text: &str) -> Vec<String> {
    let code = blank(text);
    let mut keys = Vec::new();
    let (mut derives, mut inside) = (false, false);
    for line in code.lines() {
        if line.starts_with("#[derive(") {
            derives = line.contains("Deserialize");
        } else if line.contains("struct ") && line.ends_with('{') {
            inside = derives;
        } else if line.starts_with('}') {
            (derives, inside) = (false, false);
        } else if inside && let Some((name, _)) = line.split_once(':') {
            let word = name.split_whitespace().last().unwrap_or_default();
            if line.starts_with("    ")
                && !line.starts_with("     ")
                && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            {
                keys.push(word.to_owned());
            }
        }
    }
    keys.retain(|key| !key.is_empty());
    keys
}

fn features(tree: &Tree) -> Vec<Finding> {
    let page = tree.get(FEATURE_PAGE).map_or("", String::as_str);
    let mut found = Vec::new();
    for id in 1..=FEATURES {
        let Some((line, cells)) = row(page, &id.to_string()) else {
            found.push(Finding::new(FEATURE_PAGE, format!("has no row for feature {id}")));
            continue;
        };
        let [.., state, shown] = cells.as_slice() else {
            continue;
        };
        match *state {
            "planned" => {}
            "works" | "partly" => found.extend(shown_by(tree, id, line, shown)),
            _ => found.push(Finding::line(
                FEATURE_PAGE,
                line,
                format!("feature {id} is {state:?}; it works, works partly, or is planned"),
            )),
        }
    }
    found
}

/// A feature that is claimed to work names the file or the test that shows it.
fn shown_by(tree: &Tree, id: u32, line: usize, shown: &str) -> Vec<Finding> {
    let cited: Vec<&str> = quoted(shown).filter(|word| word.contains("::") || word.contains('/')).collect();
    if cited.is_empty() {
        return vec![Finding::line(
            FEATURE_PAGE,
            line,
            format!("feature {id} names no file or test that shows it"),
        )];
    }
    let exists = |word: &str| {
        test_exists(tree, word)
            || tree.contains_key(word)
            || tree.keys().any(|path| path.starts_with(&format!("{}/", word.trim_end_matches('/'))))
    };
    let gone = cited.into_iter().filter(|word| !exists(word));
    gone.map(|word| {
        Finding::line(FEATURE_PAGE, line, format!("feature {id} cites {word}, which is not here"))
    })
    .collect()
}

/// The README shows code that is compiled: its Rust block is a part of the first sample, word for word.
fn readme(tree: &Tree) -> Vec<Finding> {
    let page = tree.get(README).map_or("", String::as_str);
    let sample = tree.get(README_SOURCE).map_or("", String::as_str);
    let blocks = page.split("```rust\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    blocks
        .filter(|block| !sample.contains(block.trim_end()))
        .map(|_| Finding::new(README, format!("shows code that is not in {README_SOURCE} word for word")))
        .collect()
}

/// Relative links lead to files that are here.
fn links(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".md")) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (number, line) in text.lines().enumerate() {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
            for target in targets.filter(|target| !target.is_empty() && !target.contains("://")) {
                if !leads_somewhere(tree, folder, target) {
                    found.push(Finding::line(
                        path,
                        number + 1,
                        format!("links to {target}, which is not here"),
                    ));
                }
            }
        }
    }
    found
}

fn leads_somewhere(tree: &Tree, folder: &str, target: &str) -> bool {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    let path = parts.join("/");
    tree.contains_key(&path) || tree.keys().any(|file| file.starts_with(&format!("{path}/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn an_error_that_the_page_leaves_out_is_found() {
        let source = "pub enum ErrorKind {\n    /// Doc.\n    Moved {\n        /// Doc.\n        Holder: u8,\n    },\n    Fenced,\n}\n";
        let found = errors(&tree(&[(ERRORS_SOURCE, source), (ERRORS, "| `Moved` | no |\n")]));
        assert_eq!(found, [Finding::new(ERRORS, "has no row for ErrorKind::Fenced")]);
        assert!(errors(&tree(&[(ERRORS, "")]))[0].to_string().contains("no enum ErrorKind"));
    }

    #[test]
    fn a_key_that_the_page_leaves_out_is_found() {
        let source = "#[derive(Clone, Deserialize)]\npub struct Node {\n    /// Doc.\n    pub ttl_ms: u64,\n    name: String,\n}\n#[derive(Clone)]\nstruct Other {\n    no_key: u8,\n}\n";
        let found = config(&tree(&[("server/src/config.rs", source), (CONFIG, "| `node.ttl_ms` | ms |\n")]));
        assert_eq!(found, [Finding::new(CONFIG, "has no row for the key name")]);
    }

    #[test]
    fn a_missing_feature_row_is_found() {
        assert_eq!(
            features(&tree(&[(FEATURE_PAGE, "| 1 | a | planned | – |\n")])).len(),
            FEATURES as usize - 1
        );
    }

    #[test]
    fn a_feature_that_works_must_show_it() {
        let rows = |first: &str| {
            (2..=FEATURES).fold(first.to_owned(), |page, id| format!("{page}| {id} | a | planned | – |\n"))
        };
        let says = |first: &str| features(&tree(&[(FEATURE_PAGE, &rows(first)), ("core/src/id.rs", "")]));
        assert_eq!(says("| 1 | a | works | `core/src/id.rs` |\n"), []);
        assert_eq!(says("| 1 | a | works | it does |\n").len(), 1);
        assert_eq!(says("| 1 | a | partly | `core/src/gone.rs` |\n").len(), 1);
        assert_eq!(says("| 1 | a | nearly | `core/src/id.rs` |\n").len(), 1);
    }

    #[test]
    fn code_in_the_readme_that_no_sample_has_is_found() {
        let page = "# A\n```rust\nfn shown() {}\n```\n";
        assert_eq!(readme(&tree(&[(README, page), (README_SOURCE, "//! Doc.\nfn shown() {}\n")])), []);
        assert_eq!(readme(&tree(&[(README, page), (README_SOURCE, "//! Doc.\nfn other() {}\n")])).len(), 1);
    }

    #[test]
    fn a_link_to_nowhere_is_found() {
        let page = "see [a](../README.md#top), [b](errors.md), [c](https://example.org/x), [d](#here)\n";
        assert_eq!(links(&tree(&[("docs/a.md", page), (README, ""), (ERRORS, "")])), []);
        assert_eq!(links(&tree(&[("docs/a.md", page), (README, "")])).len(), 1);
    }
}
