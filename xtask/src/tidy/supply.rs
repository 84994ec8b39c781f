//! What we build upon: licences, sources, and how many versions of a package there are. Enough to run
//! on a machine that has only Rust; `cargo deny` checks advisories where it is installed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Finding;

/// Licences that Apache-2.0 software may link.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "BSL-1.0",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
    "0BSD",
];

/// Packages that must exist once: two versions are two incompatible sets of types, or twice the code.
const ONE_VERSION: &[&str] = &["tonic", "prost", "hyper", "tokio"];

/// Packages that exist in more than one version, and through whom. Two of each at most.
const TWICE: &[(&str, &str)] = &[
    ("cpufeatures", "hash crates of two generations below the Raft library and rand"),
    ("embedded-io", "postcard keeps both for its two features"),
    ("fastrand", "test tools"),
    ("foldhash", "hashbrown of two generations"),
    ("getrandom", "rand of two generations"),
    ("itertools", "prost and its build tools"),
    ("logos", "protox and prost-reflect"),
    ("logos-codegen", "protox and prost-reflect"),
    ("logos-derive", "protox and prost-reflect"),
    ("parking_lot", "sled keeps 0.11"),
    ("parking_lot_core", "sled keeps 0.11"),
    ("siphasher", "hashring keeps 0.3"),
    ("syn", "derive macros of two generations"),
];

/// Packages that exist in three: the third comes with the model checker or the simulator, which nothing
/// that ships links.
const THRICE: &[(&str, &str)] = &[
    ("hashbrown", "indexmap, ours, and the model checker's map"),
    ("rand", "the Raft library, older crates, and the simulator"),
    ("rand_core", "the Raft library, older crates, and the simulator"),
];

/// How many versions of a package there may be.
fn allowed(name: &str) -> usize {
    let named = |list: &[(&str, &str)]| list.iter().any(|(listed, _)| *listed == name);
    if named(THRICE) {
        3
    } else if named(TWICE) {
        2
    } else {
        1
    }
}

/// Checks the packages that `cargo metadata` resolved.
pub fn check(metadata: &Value) -> Vec<Finding> {
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    let mut found = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        let text = |field: &str| package[field].as_str().unwrap_or_default();
        versions.entry(text("name")).or_default().insert(text("version"));
        let at = format!("{} {}", text("name"), text("version"));
        if !is_allowed(text("license")) {
            found.push(Finding::new(
                &at,
                format!("licence {:?} is not on the list in xtask/src/tidy/supply.rs", text("license")),
            ));
        }
        if package["source"].as_str().is_some_and(|source| !source.starts_with("registry+")) {
            found.push(Finding::new(
                &at,
                format!("comes from {}; packages come from the registry", text("source")),
            ));
        }
    }
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        let all = versions.iter().copied().collect::<Vec<_>>().join(", ");
        if ONE_VERSION.contains(name) {
            found.push(Finding::new(
                name,
                format!("must exist once, is here as {all}; align who asks for it"),
            ));
        } else if versions.len() > allowed(name) {
            found.push(Finding::new(
                name,
                format!("is here as {all}; align them, or say through whom in xtask/src/tidy/supply.rs"),
            ));
        }
    }
    found
}

/// Whether an SPDX expression can be satisfied: one side of an OR, all sides of an AND. The old `/`
/// means OR. An exception after WITH only adds rights.
fn is_allowed(expression: &str) -> bool {
    let flat = expression.replace(['(', ')'], " ").replace('/', " OR ");
    // AND binds tighter in SPDX; reading it as the outer operator is stricter, and right for the
    // parenthesised form that packages use: (A OR B) AND C.
    flat.split(" AND ").all(|side| {
        side.split(" OR ").any(|licence| {
            let name = licence.trim().split(" WITH ").next().unwrap_or_default().trim();
            LICENCES.contains(&name)
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn says(packages: &[(&str, &str, &str, &str)]) -> Vec<String> {
        let packages: Vec<Value> = packages
            .iter()
            .map(|(name, version, license, source)| json!({"name": name, "version": version, "license": license, "source": source}))
            .collect();
        check(&json!({ "packages": packages })).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn a_licence_off_the_list_is_found() {
        assert!(says(&[("a", "1.0.0", "GPL-3.0", "registry+x")])[0].contains("GPL-3.0"));
        assert!(says(&[("a", "1.0.0", "", "registry+x")])[0].contains("licence"));
        assert_eq!(says(&[("a", "1.0.0", "MIT AND GPL-3.0", "registry+x")]).len(), 1);
    }

    #[test]
    fn a_licence_may_be_chosen_or_joined() {
        for licence in [
            "MIT OR GPL-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR MIT",
            "MIT/Apache-2.0",
        ] {
            assert_eq!(says(&[("a", "1.0.0", licence, "registry+x")]), [""; 0], "{licence}");
        }
    }

    #[test]
    fn a_package_from_git_is_found() {
        assert!(says(&[("a", "1.0.0", "MIT", "git+https://example.org/a")])[0].contains("registry"));
    }

    #[test]
    fn a_second_version_of_a_wire_crate_is_found() {
        for name in ONE_VERSION {
            assert!(
                says(&[(name, "1.0.0", "MIT", "registry+x"), (name, "2.0.0", "MIT", "registry+x")])[0]
                    .contains("must exist once")
            );
        }
    }

    #[test]
    fn duplicates_are_bounded_by_the_list() {
        let twice = ("itertools", "1.0.0", "MIT", "registry+x");
        assert_eq!(says(&[twice, ("itertools", "2.0.0", "MIT", "registry+x")]), [""; 0]);
        assert_eq!(
            says(&[
                twice,
                ("itertools", "2.0.0", "MIT", "registry+x"),
                ("itertools", "3.0.0", "MIT", "registry+x")
            ])
            .len(),
            1
        );
        assert_eq!(
            says(&[("a", "1.0.0", "MIT", "registry+x"), ("a", "2.0.0", "MIT", "registry+x")]).len(),
            1
        );
    }
}
