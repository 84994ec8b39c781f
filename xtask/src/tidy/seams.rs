//! The World seam and the two libraries that may be named in few places: what keeps production and
//! simulation the same assembly, and openraft and tonic replaceable.

use super::{Finding, Tree, source::Source};

/// Folders that run inside the World.
const INSIDE: &[&str] = &[
    "core",
    "proto",
    "placement",
    "raft-meta",
    "directory",
    "runtime",
    "stub-gen",
    "gateway",
    "client",
    "server",
];

/// Where the outside world is touched, and why.
const OUTSIDE: &[(&str, &str)] = &[
    ("server/src/world", "the World implementation itself"),
    ("stub-gen/src", "runs in build scripts, never in a node"),
    ("proto/build.rs", "runs at build time"),
];

/// What only the World may name, and the trait that stands for it.
const SEAMS: &[(&str, &str)] = &[
    ("Instant::now", "core::clock::Clock"),
    ("SystemTime::now", "core::clock::Clock"),
    ("tokio::net", "the World's Net"),
    ("std::net::TcpListener", "the World's Net"),
    ("std::net::TcpStream", "the World's Net"),
    ("std::fs", "core::world::Disk"),
    ("tokio::fs", "core::world::Disk"),
    ("thread::spawn", "core::world::Threads"),
    ("thread::Builder", "core::world::Threads"),
    ("tokio::spawn", "core::world::Spawner"),
    ("tokio::task::spawn", "core::world::Spawner"),
    ("spawn_local", "core::world::Spawner"),
    ("thread_rng", "core::world::Entropy"),
    ("rand::rng", "core::world::Entropy"),
    ("getrandom", "core::world::Entropy"),
];

/// Who may name a library.
struct Named {
    library: &'static str,
    places: &'static [&'static str],
    instead: &'static str,
}

const NAMED: &[Named] = &[
    Named {
        library: "openraft",
        places: &["raft-meta/src/raft"],
        instead: "only the adapter in raft-meta/src/raft names openraft",
    },
    Named {
        library: "tonic",
        places: &[
            "proto",
            "raft-meta/src/lib.rs",
            "raft-meta/src/member",
            "raft-meta/src/raft",
            "raft-meta/src/service",
            "raft-meta/src/client",
            "server/src/adapters",
            "server/src/world",
            "server/src/node",
            "gateway",
            "client",
            "stub-gen",
            "ctl",
            "samples",
            "benches",
            "fuzz",
        ],
        instead: "only drivers name tonic: raft-meta's raft, service and client, the server's adapters, node and world, gateway, client, proto",
    },
];

/// Checks every Rust file outside its tests.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let tests = super::hygiene::test_files(tree);
    let mut found = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let source = Source::read(path, text, tests.contains(path));
        world(&source, &mut found);
        libraries(&source, &mut found);
    }
    found
}

fn world(source: &Source, found: &mut Vec<Finding>) {
    let inside = INSIDE.iter().any(|folder| within(source.path, folder));
    if !inside || OUTSIDE.iter().any(|(place, _)| within(source.path, place)) {
        return;
    }
    for (line, code) in source.product_lines() {
        for (name, instead) in SEAMS {
            if names(code, name) && !source.is_waived(line, "seam") {
                found.push(Finding::line(
                    source.path,
                    line,
                    format!("{name} outside the World; use {instead}"),
                ));
            }
        }
    }
}

fn libraries(source: &Source, found: &mut Vec<Finding>) {
    if within(source.path, "xtask") {
        return;
    }
    for Named { library, places, instead } in NAMED {
        if places.iter().any(|place| within(source.path, place)) {
            continue;
        }
        for (line, code) in source.product_lines() {
            if names(code, library) {
                found.push(Finding::line(source.path, line, format!("names {library}; {instead}")));
            }
        }
    }
}

/// Whether `path` is `place`, in folder `place`, or the file `place.rs`.
pub fn within(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".rs")
}

/// Whether `name` stands in the code with no letter directly around it: `openraft::Raft` names
/// `openraft`, `my_openraft` does not. A trailing `_` is let through, so `tonic_prost` names `tonic`.
pub fn names(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_') && !after.is_some_and(char::is_alphanumeric)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(path: &str, text: &str) -> Vec<String> {
        check(&Tree::from([(path.to_owned(), text.to_owned())])).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn every_seam_is_found_in_product_code() {
        for (name, _) in SEAMS {
            let found = says("runtime/src/turn.rs", &format!("fn f() {{ let x = {name}(); }}\n"));
            assert!(!found.is_empty(), "{name} went unseen");
        }
    }

    #[test]
    fn the_world_and_tests_may_touch_the_outside() {
        let text = "fn f() { std::fs::read(x); }\n";
        assert_eq!(says("server/src/node.rs", text).len(), 1);
        assert!(says("server/src/world/disk.rs", text).is_empty());
        assert!(says("server/tests/demo.rs", text).is_empty());
        assert!(says("server/src/node.rs", &format!("#[cfg(test)]\nmod tests {{\n{text}}}\n")).is_empty());
        assert!(says("samples/realm/src/main.rs", text).is_empty());
    }

    #[test]
    fn a_seam_named_in_a_comment_or_a_message_is_no_breach() {
        assert!(
            says("core/src/clock.rs", "// never Instant::now\nconst A: &str = \"std::fs\";\n").is_empty()
        );
    }

    #[test]
    fn openraft_is_named_in_one_module_only() {
        assert_eq!(says("raft-meta/src/meta/apply.rs", "use openraft::Raft;\n").len(), 1);
        assert!(says("raft-meta/src/raft/network.rs", "use openraft::Raft;\n").is_empty());
        assert!(says("raft-meta/src/raft.rs", "use openraft::Raft;\n").is_empty());
    }

    #[test]
    fn tonic_is_named_by_drivers_only() {
        assert_eq!(says("runtime/src/lib.rs", "use tonic::Status;\n").len(), 1);
        assert_eq!(says("server/src/config/mod.rs", "use tonic_health::server;\n").len(), 1);
        assert!(says("server/src/adapters/peer.rs", "use tonic::Status;\n").is_empty());
        assert!(says("runtime/src/lib.rs", "let platonic = 1;\n").is_empty());
    }
}
