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
const WALKS: &[&str] = &["docs/architecture.md", "docs/status.md"];
const README: &str = "README.md";
const README_SOURCE: &str = "samples/hello/src/main.rs";

/// Checks every page.
pub fn check(tree: &Tree) -> Vec<Finding> {
    [errors(tree), config(tree), features(tree), readme(tree), links(tree), walk(tree)].concat()
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

/// Every setting has a row that gives its default.
fn config(tree: &Tree) -> Vec<Finding> {
    let page = tree.get(CONFIG).map_or("", String::as_str);
    let sources = tree.iter().filter(|(path, _)| path.starts_with(CONFIG_SOURCE) && path.ends_with(".rs"));
    let settings: Vec<(String, String)> = sources.flat_map(|(_, text)| settings(text)).collect();
    if settings.is_empty() {
        return vec![Finding::new(CONFIG_SOURCE, "no settings! list found; is it somewhere else now?")];
    }
    let mut found = Vec::new();
    for (key, default) in settings {
        match row(page, &key) {
            None => found.push(Finding::new(CONFIG, format!("has no row for the key {key}"))),
            Some((line, cells)) if !cells.iter().any(|cell| quoted(cell).any(|word| word == default)) => {
                found.push(Finding::line(
                    CONFIG,
                    line,
                    format!("{key} has the default {default}, which the row does not give"),
                ));
            }
            Some(_) => {}
        }
    }
    found
}

/// Keys, `section.key`, and defaults of the `settings! { … Name in "section" { key: Type = default; } }` lists.
fn settings(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let (mut inside, mut section) = (false, String::new());
    for line in text.lines() {
        if line.starts_with("settings! {") {
            inside = true;
        } else if line.starts_with('}') {
            inside = false;
        } else if inside && let Some((_, name)) = line.split_once(" in \"") {
            section = name.split('"').next().unwrap_or_default().to_owned();
        } else if inside && let Some(setting) = setting(line) {
            found.push((format!("{section}.{}", setting.0), setting.1));
        }
    }
    found
}

/// `key: Type = default;`, the default as it stands in a TOML file.
fn setting(line: &str) -> Option<(String, String)> {
    let (head, default) = line.trim().strip_suffix(';')?.split_once(" = ")?;
    let key = head.split_once(':')?.0;
    let is_key =
        !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let plain = default.trim_end_matches("_u64").trim_end_matches(".map(String::from)");
    let is_number = plain.starts_with(|c: char| c.is_ascii_digit());
    let plain = if is_number { plain.replace('_', "") } else { plain.to_owned() };
    is_key.then(|| (key.to_owned(), plain))
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

/// Pages that walk through the tree name files that are here, and tests that are here.
fn walk(tree: &Tree) -> Vec<Finding> {
    let is_path = |word: &str| {
        word.contains('/') && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
    };
    let mut found = Vec::new();
    for path in WALKS {
        let page = tree.get(*path).map_or("", String::as_str);
        for (number, line) in page.lines().enumerate() {
            let gone = quoted(line).filter(|word| {
                (is_path(word) && !leads_somewhere(tree, "", word))
                    || (word.contains("::") && !test_exists(tree, word))
            });
            found.extend(
                gone.map(|word| Finding::line(path, number + 1, format!("names {word}, which is not here"))),
            );
        }
    }
    found
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
    fn a_key_that_the_page_leaves_out_or_gives_wrong_is_found() {
        let source = "settings! {\n    /// Doc.\n    Node in \"node\" {\n        /// Doc.\n        ttl_ms: u64 = 4_000_u64;\n        roles: Vec<String> = [\"a\"].map(String::from);\n    }\n}\n";
        let says = |page: &str| config(&tree(&[("server/src/config/settings.rs", source), (CONFIG, page)]));
        assert_eq!(says("| `node.ttl_ms` | `4000` |\n| `node.roles` | `[\"a\"]` |\n"), []);
        assert_eq!(
            says("| `node.ttl_ms` | `4000` |\n"),
            [Finding::new(CONFIG, "has no row for the key node.roles")]
        );
        assert!(
            says("| `node.ttl_ms` | `400` |\n| `node.roles` | `[\"a\"]` |\n")[0]
                .to_string()
                .contains("default 4000")
        );
        assert!(
            config(&tree(&[])).first().is_some_and(|finding| finding.to_string().contains("no settings!"))
        );
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

    #[test]
    fn a_file_that_the_walk_names_must_be_there() {
        let says = |page: &str| walk(&tree(&[(WALKS[0], page), ("core/src/id.rs", "")]));
        assert_eq!(says("first `core/src/id.rs`, in `core/src`, all of `samples/*`\n"), []);
        assert!(says("first `core/src/ids.rs`\n")[0].to_string().contains("core/src/ids.rs"));
        assert!(says("as `millet_core::id::tests::gone` shows\n")[0].to_string().contains("tests::gone"));
    }
}
