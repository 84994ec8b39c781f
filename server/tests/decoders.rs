//! Settings from any text: read or refused with a reason, never a panic; what is read can be written and
//! read again.

use millet::config::Config;
use proptest::prelude::*;

fn toml() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "id",
        "session_ttl_ms",
        "tick_ms",
        "heartbeat_ms",
        "election_max_ms",
        "name",
        "roles",
        "data_dir",
        "peer_listen",
        "members",
        "worker_threads",
        "state_engine",
        "unknown",
    ]);
    let value = prop_oneof![
        any::<u64>().prop_map(|n| (n >> (n % 64)).to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        any::<String>().prop_map(|s| format!("{s:?}")),
        any::<String>().prop_map(|s| format!("'{s}'")),
        Just("[\"meta\", \"worker\"]".to_owned()),
        Just("[\"127.0.0.1:1\", 7]".to_owned()),
        Just("{ a = 1 }".to_owned()),
        ".{0,8}",
    ];
    let line = prop_oneof![
        1 => prop::sample::select(vec!["[cluster]", "[node]", "[other]", "[[node]]"]).prop_map(str::to_owned),
        4 => (key, value).prop_map(|(k, v)| format!("{k} = {v}")),
        1 => ".{0,16}",
    ];
    prop::collection::vec(line, 0..8).prop_map(|lines| lines.join("\n"))
}

fn environment() -> impl Strategy<Value = Vec<(String, String)>> {
    let known =
        prop::sample::select(vec!["CLUSTER_SESSION_TTL_MS", "NODE_NAME", "NODE_MEMBERS", "NODE_ROLES"]);
    let name = prop_oneof![3 => known.prop_map(str::to_owned), 1 => "[A-Z_]{0,24}"];
    prop::collection::vec((name.prop_map(|n| format!("MILLET_{n}")), any::<String>()), 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_settings_or_refused(text in toml(), env in environment()) {
        match Config::read(Some(("test.toml", &text)), env) {
            Ok(config) => {
                let again = Config::read(Some(("again.toml", &config.to_toml())), []);
                prop_assert_eq!(again, Ok(config));
            }
            Err(e) => prop_assert!(!e.to_string().is_empty()),
        }
    }
}

/// Found by the property above: what Rust calls an escape is none in TOML.
#[test]
fn settings_in_force_are_toml_whatever_characters_they_hold() {
    for name in ["\u{7f}", "\0", "a\u{301}", "\"\\\n\r\t\u{8}\u{c}", "\u{1b}[0m", "it's", "\u{10ffff}"] {
        let env = [("MILLET_NODE_NAME".to_owned(), name.to_owned())];
        let config = Config::read(None, env).expect("any name is one");
        assert_eq!(config.node.name, name);
        let written = config.to_toml();
        assert_eq!(Config::read(Some(("again.toml", &written)), []), Ok(config), "{written}");
    }
}

/// Found by the property above: twice the heartbeat wrapped around.
#[test]
fn times_near_the_end_of_all_numbers_do_not_wrap() {
    let times = ["tick_ms", "heartbeat_ms", "election_min_ms", "election_max_ms", "quorum_probe_ms"];
    for key in times {
        for value in [u64::MAX, u64::MAX / 2 + 1, u64::MAX / 3 + 1, u64::MAX / 5] {
            let of =
                |key: &str, value: u64| (format!("MILLET_CLUSTER_{}", key.to_uppercase()), value.to_string());
            let read = Config::read(None, [of("session_ttl_ms", u64::MAX), of(key, value)]);
            assert!(
                key != "heartbeat_ms" || read.is_err(),
                "two heartbeats of {value} ms fit into no election"
            );
            if let Err(e) = read {
                assert!(e.to_string().contains("cluster"), "{key} = {value}: {e}");
            }
        }
    }
}
