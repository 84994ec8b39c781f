//! Who may import whom: the table of crates in docs/architecture.md, over the normal and build
//! dependencies that cargo reports. Dev-dependencies are free: tests may look from anywhere.

use serde_json::Value;

use super::Finding;

/// What a node is made of.
const INSIDE: &[&str] = &[
    "millet-core",
    "millet-proto",
    "millet-placement",
    "millet-raft-meta",
    "millet-directory",
    "millet-runtime",
    "millet-stub-gen",
    "millet-macros",
    "millet-gateway",
    "millet-client",
];
/// What the drivers of the proof share.
const PROOF: &[&str] = &["millet", "millet-oracle", "millet-testkit", "millet-workload"];

/// Package → lists of the workspace packages it may depend on. The samples see what a user sees.
const MAY_IMPORT: &[(&str, &[&[&str]])] = &[
    ("millet-core", &[]),
    ("millet-proto", &[&["millet-core"]]),
    ("millet-placement", &[&["millet-core"]]),
    ("millet-raft-meta", &[&["millet-core", "millet-proto", "millet-placement"]]),
    ("millet-directory", &[&["millet-core", "millet-placement"]]),
    ("millet-runtime", &[&["millet-core", "millet-directory"]]),
    ("millet-stub-gen", &[]),
    ("millet-macros", &[&["millet-stub-gen"]]),
    ("millet-gateway", &[&["millet-core", "millet-proto", "millet-directory"]]),
    ("millet-client", &[&["millet-core", "millet-proto"]]),
    ("millet", &[INSIDE]),
    ("millet-ctl", &[&["millet-core", "millet-proto", "millet-client"]]),
    ("millet-testkit", &[INSIDE, &["millet"]]),
    ("millet-oracle", &[]),
    ("millet-workload", &[INSIDE, &["millet", "millet-oracle"]]),
    ("millet-model", &[INSIDE, &["millet", "millet-testkit"]]),
    ("millet-sim", &[INSIDE, PROOF]),
    ("millet-torture", &[INSIDE, PROOF]),
    ("hello", &[&["millet", "millet-stub-gen"]]),
    ("realm", &[&["millet", "millet-stub-gen"]]),
    (
        "millet-benches",
        &[&[
            "millet",
            "millet-core",
            "millet-directory",
            "millet-placement",
            "millet-proto",
            "millet-raft-meta",
            "millet-runtime",
            "millet-stub-gen",
            "millet-testkit",
        ]],
    ),
    ("xtask", &[&["millet-oracle"]]),
];

/// Package → outside crates it must never know, and why.
const MUST_NOT_KNOW: &[(&str, &[&str], &str)] = &[
    (
        "millet-core",
        &["tokio", "tonic", "openraft", "sled", "mio", "socket2"],
        "core knows no async runtime, socket or engine",
    ),
    (
        "millet-placement",
        &["tokio", "tonic", "openraft", "futures"],
        "placement is pure: no network, Raft or clock",
    ),
    ("millet-proto", &["tokio", "openraft"], "proto holds contracts, no behaviour"),
    ("millet-directory", &["tonic", "openraft"], "directory reaches others through Meta and Peer only"),
    ("millet-runtime", &["tonic", "openraft"], "runtime knows neither Raft nor the wire"),
    ("millet-stub-gen", &["tokio", "tonic", "openraft"], "stub-gen knows nothing of run time"),
    ("millet-macros", &["tokio", "tonic", "openraft"], "macros know nothing of run time"),
    ("millet-gateway", &["openraft"], "the gateway knows no Raft"),
    ("millet-client", &["openraft", "sled"], "a client knows nothing inside the cluster"),
    ("millet-ctl", &["openraft", "sled"], "the tool is a client"),
    ("millet", &["openraft", "sled", "redb"], "consensus and engines stay inside raft-meta"),
];

/// Checks both tables against `cargo metadata`.
pub fn check(metadata: &Value) -> Vec<Finding> {
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    let local: Vec<&Value> = packages.iter().filter(|package| package["source"].is_null()).collect();
    let names: Vec<&str> = local.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut found = Vec::new();
    for package in local {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(row, _)| *row == name) else {
            found.push(Finding::new(
                name,
                "is not in the import table; add a row to xtask/src/tidy/imports.rs",
            ));
            continue;
        };
        for import in linked(package) {
            if names.contains(&import) && !allowed.iter().any(|list| list.contains(&import)) {
                found.push(Finding::new(
                    name,
                    format!(
                        "imports {import}, which the import table does not allow; see docs/architecture.md"
                    ),
                ));
            }
            for (row, banned, why) in MUST_NOT_KNOW {
                if *row == name && banned.contains(&import) {
                    found.push(Finding::new(name, format!("depends on {import}, but {why}")));
                }
            }
        }
    }
    found
}

/// Names of the normal and build dependencies.
fn linked(package: &Value) -> impl Iterator<Item = &str> {
    let all = package["dependencies"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter()
        .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
        .filter_map(|dependency| dependency["name"].as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, imports: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<Value> =
            imports.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
        json!({"name": name, "source": null, "dependencies": dependencies})
    }

    fn says(packages: &[Value]) -> Vec<String> {
        check(&json!({ "packages": packages })).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn an_import_outside_the_table_is_found() {
        let found = says(&[
            package("millet-raft-meta", &[]),
            package("millet-runtime", &[("millet-raft-meta", None)]),
        ]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("millet-runtime: imports millet-raft-meta"));
    }

    #[test]
    fn a_build_dependency_counts_and_a_dev_dependency_does_not() {
        let raft = package("millet-raft-meta", &[]);
        assert_eq!(
            says(&[raft.clone(), package("millet-core", &[("millet-raft-meta", Some("build"))])]).len(),
            1
        );
        assert!(says(&[raft, package("millet-core", &[("millet-raft-meta", Some("dev"))])]).is_empty());
    }

    #[test]
    fn what_a_crate_must_never_know_is_found() {
        assert!(says(&[package("millet-core", &[("tokio", None)])])[0].contains("no async runtime"));
    }

    #[test]
    fn a_crate_without_a_row_is_found() {
        assert!(says(&[package("millet-extras", &[])])[0].contains("not in the import table"));
    }
}
