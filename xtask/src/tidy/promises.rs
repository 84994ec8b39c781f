//! Promises are traced: every clause of G1–G7 and every ownership rule in docs/guarantees.md cites a
//! test that exists, or says that it is open. Also resolves such citations for the other pages.

use super::{
    Finding, Tree,
    seams::within,
    source::{Source, is_test_path},
};

const PAGE: &str = "docs/guarantees.md";

/// Every clause that the page must have a row for.
const CLAUSES: &[&str] = &[
    "G1a", "G1b", "G1c", "G1d", "G2a", "G2b", "G2c", "G3a", "G3b", "G3c", "G4a", "G4b", "G4c", "G4d", "G5a",
    "G5b", "G5c", "G6", "G7",
];

/// Ownership rules R1 to R34.
const RULES: u32 = 34;

/// Folders whose crate is not called `millet_<folder>`.
const FOLDERS: &[(&str, &str)] = &[
    ("millet", "server"),
    ("millet_macros", "stub-gen/macros"),
    ("hello", "samples/hello"),
    ("realm", "samples/realm"),
    ("xtask", "xtask"),
    ("millet_model", "testkit/model"),
    ("millet_oracle", "testkit/oracle"),
    ("millet_sim", "testkit/sim"),
    ("millet_torture", "testkit/torture"),
    ("millet_workload", "testkit/workload"),
];

/// Checks the page against the tests in the tree.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let Some(page) = tree.get(PAGE) else {
        return vec![Finding::new(PAGE, "is missing")];
    };
    let rules = (1..=RULES).map(|number| format!("R{number}"));
    let mut found = Vec::new();
    for id in CLAUSES.iter().map(|&clause| clause.to_owned()).chain(rules) {
        match row(page, &id) {
            None => found.push(Finding::new(PAGE, format!("has no row for {id}"))),
            Some((line, cells)) => proof(tree, &id, line, &cells, &mut found),
        }
    }
    found
}

fn proof(tree: &Tree, id: &str, line: usize, cells: &[&str], found: &mut Vec<Finding>) {
    let shown = cells.last().copied().unwrap_or_default();
    let cited: Vec<&str> = quoted(shown).filter(|word| word.contains("::")).collect();
    for test in &cited {
        if !test_exists(tree, test) {
            found.push(Finding::line(PAGE, line, format!("{id} cites {test}, which is not a test here")));
        }
    }
    let is_open = shown.strip_prefix("open: ").is_some_and(|why| why.len() >= 8);
    if cited.is_empty() && !is_open {
        found.push(Finding::line(
            PAGE,
            line,
            format!("{id} cites no test; cite one, or write `open: ` and what is missing"),
        ));
    }
}

/// The table row whose first cell is `id`: its line number and cells.
pub fn row<'a>(page: &'a str, id: &str) -> Option<(usize, Vec<&'a str>)> {
    page.lines().enumerate().find_map(|(number, line)| {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
        (cells.first()?.trim_matches(['*', '`']) == id).then_some((number + 1, cells))
    })
}

/// The words in backquotes.
pub fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether `crate::path::test_name` is a test function: one of that name, in the crate's folder, in a
/// file that the path names or that has a module of that name.
pub fn test_exists(tree: &Tree, cited: &str) -> bool {
    let parts: Vec<&str> = cited.split("::").collect();
    let [krate, modules @ .., name] = parts.as_slice() else {
        return false;
    };
    let named = FOLDERS.iter().find(|(row, _)| row == krate).map(|(_, folder)| (*folder).to_owned());
    let folder = named.unwrap_or_else(|| krate.trim_start_matches("millet_").replace('_', "-"));
    tree.iter().filter(|(path, _)| path.ends_with(".rs") && within(path, &folder)).any(|(path, text)| {
        let known = |module: &&str| {
            let in_path = path.trim_end_matches(".rs").split('/').any(|part| part == *module);
            in_path || text.contains(&format!("mod {module} "))
        };
        text.contains(name) && modules.iter().all(known) && tests_in(path, text).any(|test| test == *name)
    })
}

/// Names of the test functions in a file.
fn tests_in(path: &str, text: &str) -> impl Iterator<Item = String> {
    let source = Source::read(path, text, is_test_path(path));
    let mut marked = false;
    let mut names = Vec::new();
    for code in &source.code {
        marked |= code.contains("#[test]") || code.contains("::test]") || code.contains("::test(");
        if let Some((_, rest)) = code.split_once("fn ") {
            if marked {
                names.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            }
            marked = false;
        }
    }
    names.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(shown: &str) -> String {
        let rules = (1..=RULES).map(|number| format!("R{number}"));
        let ids = CLAUSES.iter().map(|&clause| clause.to_owned()).chain(rules);
        ids.map(|id| format!("| {id} | words | {shown} |\n")).collect()
    }

    fn tree(page: String) -> Tree {
        let test = "//! Doc.\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn r1_holds() {}\n    fn no_test() {}\n}\n";
        Tree::from([(PAGE.to_owned(), page), ("raft-meta/src/meta/lease.rs".to_owned(), test.to_owned())])
    }

    #[test]
    fn a_page_that_cites_real_tests_passes() {
        assert_eq!(check(&tree(page("`millet_raft_meta::meta::lease::tests::r1_holds`"))), []);
        assert_eq!(check(&tree(page("open: the simulator is not there yet"))), []);
    }

    #[test]
    fn a_promise_without_a_row_or_a_test_is_found() {
        let whole = page("open: the simulator is not there yet");
        let without = whole.lines().filter(|line| !line.starts_with("| G5b")).collect::<Vec<_>>().join("\n");
        assert!(check(&tree(without))[0].to_string().contains("no row for G5b"));
        assert_eq!(check(&tree(page("surely"))).len(), CLAUSES.len() + RULES as usize);
        assert_eq!(check(&tree(page("open: "))).len(), CLAUSES.len() + RULES as usize);
    }

    #[test]
    fn a_citation_must_be_a_test_in_the_place_it_names() {
        let tree = tree(String::new());
        assert!(test_exists(&tree, "millet_raft_meta::meta::lease::tests::r1_holds"));
        assert!(!test_exists(&tree, "millet_raft_meta::meta::lease::tests::r2_holds"));
        assert!(!test_exists(&tree, "millet_raft_meta::meta::lease::tests::no_test"));
        assert!(!test_exists(&tree, "millet_raft_meta::log::tests::r1_holds"));
        assert!(!test_exists(&tree, "millet_runtime::meta::lease::tests::r1_holds"));
    }

    #[test]
    fn an_open_row_may_cite_what_is_there_but_nothing_that_is_not() {
        assert_eq!(
            check(&tree(page("open: only `millet_raft_meta::lease::gone` so far"))).len(),
            CLAUSES.len() + RULES as usize
        );
    }
}
