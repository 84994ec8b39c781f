//! Shape and habits of single files: module docs, length, forbidden marks, and what must not be
//! written down (package hosts, this machine's folders, papers from elsewhere).

use std::collections::BTreeSet;

use super::{
    Finding, Tree,
    seams::within,
    source::{Source, is_test_path, test_modules},
};

/// Longer files are two files.
const MAX_LINES: usize = 500;

/// Longer files that stay one, and why.
const LONG: &[(&str, &str)] = &[];

/// Marks that ship nowhere, tests included.
const MARKS: &[(&str, &str)] = &[
    ("unbounded_channel", "every queue has a limit; use a bounded channel"),
    ("mpsc::unbounded", "every queue has a limit; use a bounded channel"),
    ("#[ignore", "a test runs or is deleted"),
    ("todo!(", "finish it or leave it out"),
    ("unimplemented!(", "finish it or leave it out"),
    ("dbg!(", "use tracing"),
];

/// Hosts of package registries, in two parts so that this file does not name them.
const HOSTS: &[(&str, &str)] = &[
    ("index.", "crates.io"),
    ("static.", "crates.io"),
    ("registry.npmjs", ".org"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("proxy.", "golang.org"),
    ("deb.", "debian.org"),
    ("archive.", "ubuntu.com"),
];

/// Folders of one machine, likewise in two parts.
const FOLDERS: &[(&str, &str)] =
    &[("/ho", "me/"), ("/ro", "ot/"), ("/Us", "ers/"), ("/wo", "rk/"), ("/tm", "p/")];

/// Papers that are not in the repository, likewise in two parts: their readers have these folders only.
const PAPERS: &[(&str, &str)] =
    &[("DES", "IGN"), ("DEPEND", "ENCIES"), ("STY", "LE.md"), ("ownership-", "rules"), ("api-", "sketch")];

/// Checks every file.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let tests = test_files(tree);
    let mut found = Vec::new();
    for (path, text) in tree {
        if path != "Cargo.lock" {
            places(path, text, &mut found);
        }
        if path.ends_with(".rs") {
            let source = Source::read(path, text, tests.contains(path));
            shape(&source, &mut found);
            marks(&source, &mut found);
            habits(&source, &mut found);
        }
    }
    found
}

/// Files that are test code because a `#[cfg(test)] mod …;` names them.
pub fn test_files(tree: &Tree) -> BTreeSet<String> {
    tree.iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .flat_map(|(path, text)| test_modules(path, text))
        .collect()
}

/// Folders of files that tests read: wrong programs and expected output, kept as they are.
const CASES: &[&str] = &["ui", "refused", "golden"];

fn shape(source: &Source, found: &mut Vec<Finding>) {
    if is_test_path(source.path) && source.path.split('/').any(|part| CASES.contains(&part)) {
        return;
    }
    let first = source.raw.iter().find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
    if !first.is_some_and(|line| line.starts_with("//!")) {
        found.push(Finding::line(
            source.path,
            1,
            "opens without module docs; say in 2 to 6 lines of //! what lives here and what does not",
        ));
    }
    let lines = source.raw.len();
    if lines > MAX_LINES && !LONG.iter().any(|(path, _)| *path == source.path) {
        found.push(Finding::line(
            source.path,
            lines,
            format!("is over {MAX_LINES} lines; what are they two of?"),
        ));
    }
}

fn marks(source: &Source, found: &mut Vec<Finding>) {
    for (number, code) in source.code.iter().enumerate() {
        for (mark, instead) in MARKS {
            if code.contains(mark) {
                found.push(Finding::line(source.path, number + 1, format!("{mark}: {instead}")));
            }
        }
    }
}

fn habits(source: &Source, found: &mut Vec<Finding>) {
    for (line, code) in source.product_lines() {
        if code.contains(".unwrap()") {
            found.push(Finding::line(
                source.path,
                line,
                ".unwrap() outside tests; an expect with its invariant, or an error",
            ));
        }
    }
    if within(source.path, "testkit") {
        return;
    }
    for (line, code) in source.test_code() {
        let sleeps = code.contains("sleep(")
            && !code.trim_start().starts_with("fn ")
            && !source.is_waived(line, "sleep");
        if sleeps {
            let says =
                "sleep( in a test; wait with millet_testkit::until, or say why in `// tidy: sleep: <reason>`";
            found.push(Finding::line(source.path, line, says));
        }
    }
}

fn places(path: &str, text: &str, found: &mut Vec<Finding>) {
    for (number, line) in text.lines().enumerate() {
        for (one, two) in HOSTS {
            if line.contains(&format!("{one}{two}")) {
                found.push(Finding::line(
                    path,
                    number + 1,
                    "names a package registry's host; the registry is the reader's choice",
                ));
            }
        }
        for (one, two) in PAPERS {
            if line.contains(&format!("{one}{two}")) {
                let says = "cites a paper that is not here; say it in docs/ and cite that";
                found.push(Finding::line(path, number + 1, says));
            }
        }
        for (one, two) in FOLDERS {
            let folder = format!("{one}{two}");
            let absolute = line.match_indices(&folder).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '}' | '*'))
            });
            if absolute {
                found.push(Finding::line(
                    path,
                    number + 1,
                    format!("names a folder of one machine ({folder}); use a relative or temporary one"),
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(path: &str, text: &str) -> Vec<String> {
        check(&Tree::from([(path.to_owned(), text.to_owned())])).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn every_mark_is_found_in_code_and_not_in_text() {
        for (mark, _) in MARKS {
            assert_eq!(says("core/tests/a.rs", &format!("//! Doc.\n{mark}\n")).len(), 1, "{mark}");
            assert!(says("core/tests/a.rs", &format!("//! Doc.\n// {mark}\n")).is_empty(), "{mark}");
        }
    }

    #[test]
    fn unwrap_is_found_outside_tests_only() {
        let code = "fn f() { x.unwrap(); }\n";
        assert_eq!(says("core/src/a.rs", &format!("//! Doc.\n{code}")).len(), 1);
        assert!(
            says("core/src/a.rs", &format!("//! Doc.\n#[cfg(test)]\nmod tests {{\n{code}}}\n")).is_empty()
        );
    }

    #[test]
    fn unwrap_is_allowed_in_a_test_module_of_its_own_file() {
        let tree = Tree::from([
            ("core/src/a.rs".to_owned(), "//! Doc.\n#[cfg(test)]\nmod checks;\n".to_owned()),
            ("core/src/a/checks.rs".to_owned(), "//! Doc.\nfn f() { x.unwrap(); }\n".to_owned()),
        ]);
        assert_eq!(check(&tree), []);
    }

    #[test]
    fn sleep_in_a_test_is_found_unless_a_reason_stands_beside_it() {
        assert_eq!(says("runtime/tests/a.rs", "//! Doc.\nsleep(d).await;\n").len(), 1);
        assert!(
            says(
                "runtime/tests/a.rs",
                "//! Doc.\n// tidy: sleep: the grain is slow on purpose\nsleep(d).await;\n"
            )
            .is_empty()
        );
        assert!(says("testkit/tests/a.rs", "//! Doc.\nsleep(d).await;\n").is_empty());
        assert!(says("runtime/src/a.rs", "//! Doc.\nasync fn f() { sleep(d).await; }\n").is_empty());
    }

    #[test]
    fn a_file_without_module_docs_is_found() {
        assert!(says("core/src/a.rs", "fn f() {}\n")[0].contains("module docs"));
    }

    #[test]
    fn files_that_tests_read_keep_their_shape() {
        assert_eq!(says("stub-gen/tests/refused/a.rs", "fn f() {}\n"), [""; 0]);
        assert_eq!(says("core/src/ui/a.rs", "fn f() {}\n").len(), 1);
    }

    #[test]
    fn a_long_file_is_found() {
        assert!(
            says("core/src/a.rs", &format!("//! Doc.\n{}", "\n".repeat(MAX_LINES)))[0].contains("500 lines")
        );
    }

    #[test]
    fn a_paper_from_outside_is_found() {
        for (one, two) in PAPERS {
            assert_eq!(says("core/src/a.rs", &format!("//! As {one}{two} 8 says.\n")).len(), 1, "{one}{two}");
        }
        assert_eq!(says("core/src/a.rs", "//! The design is docs/architecture.md.\n"), [""; 0]);
    }

    #[test]
    fn hosts_and_machine_folders_are_found_in_any_file() {
        for (one, two) in HOSTS {
            assert_eq!(says("docs/a.md", &format!("see {one}{two} for it\n")).len(), 1, "{one}{two}");
        }
        for (one, two) in FOLDERS {
            assert_eq!(says("docs/a.md", &format!("in `{one}{two}x`\n")).len(), 1, "{one}{two}");
        }
        assert!(says("docs/a.md", &format!("on the net{}{}x\n", FOLDERS[3].0, FOLDERS[3].1)).is_empty());
    }
}
