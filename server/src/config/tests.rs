//! Bad settings: each refused with where, what and the way out.

use super::*;

fn read(text: &str) -> Result<Config, String> {
    Config::read(Some(("m.toml", text)), []).map_err(|e| e.to_string())
}

#[test]
fn defaults_hold_together() {
    assert_eq!(Config::default().check(), Ok(()));
    assert_eq!(read(""), Ok(Config::default()));
}

#[test]
fn what_is_printed_reads_back() {
    let mut config = Config::default();
    config.node.members = vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()];
    config.cluster.id = "a \"quoted\" one".into();
    assert_eq!(read(&config.to_toml()), Ok(config));
}

#[test]
fn an_unknown_key_names_file_line_and_the_nearest_key() {
    let said = read("[cluster]\nid = \"x\"\n\nsesion_ttl_ms = 5000\n").expect_err("refused");
    assert_eq!(said, "m.toml:4: unknown key cluster.sesion_ttl_ms; did you mean cluster.session_ttl_ms?");
    let said = read("[nodes]\n").expect_err("refused");
    assert_eq!(said, "m.toml:1: unknown key nodes; did you mean [node]?");
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_with_its_line() {
    let said = read("[cluster]\ntick_ms = \"100\"\n").expect_err("refused");
    assert_eq!(said, "m.toml:2: cluster.tick_ms wants a whole number, not negative, not text");
    let said = read("[cluster]\ntick_ms = -1\n").expect_err("refused");
    assert!(said.starts_with("m.toml:2: cluster.tick_ms wants a whole number"), "{said}");
    let said = read("[cluster]\nid = \n").expect_err("refused");
    assert!(said.starts_with("m.toml:2: "), "{said}");
}

#[test]
fn the_environment_overrides_the_file_and_is_checked_as_well() {
    let env = |k: &str, v: &str| [(k.to_owned(), v.to_owned())];
    let file = Some(("m.toml", "[node]\nname = \"file\"\n"));
    let config = Config::read(file, env("MILLET_NODE_NAME", "env")).expect("fine");
    assert_eq!(config.node.name, "env");
    let config = Config::read(None, env("MILLET_NODE_MEMBERS", "a:1, b:2")).expect("fine");
    assert_eq!(config.node.members, ["a:1", "b:2"]);
    let said = Config::read(None, env("MILLET_NODE_NAMES", "x")).expect_err("refused").to_string();
    assert_eq!(said, "MILLET_NODE_NAMES: unknown key node.names; did you mean node.name?");
    Config::read(None, env("MILLET_LOG", "debug")).expect("not a setting");
}

#[test]
fn r4_contradicting_times_are_refused_with_the_rule_and_the_numbers() {
    let said = read("[cluster]\nsession_ttl_ms = 2000\n").expect_err("refused");
    assert!(said.contains("1.6s") && said.contains("2.55s") && said.contains("600ms"), "{said}");
    let said = read("[cluster]\nheartbeat_ms = 200\nsession_ttl_ms = 6000\n").expect_err("refused");
    assert!(said.contains("2 x 200, 300 and 600"), "{said}");
}

#[test]
fn other_contradictions_are_refused() {
    for (text, part) in [
        ("[node]\nroles = []\n", "node.roles is empty"),
        ("[node]\nroles = [\"king\"]\n", "\"king\"; roles are"),
        ("[node]\nroles = [\"worker\"]\n", "node.members is empty"),
        ("[node]\npeer_listen = \"0.0.0.0:7400\"\n", "set node.peer_advertise"),
        ("[cluster]\nquorum_probe_ms = 1000\n", "1000 < 2 x 600"),
        ("[node]\nstate_engine = \"lsm\"\n", "\"sled\" or \"redb\""),
    ] {
        let said = read(text).expect_err("refused");
        assert!(said.contains(part), "{text}: {said}");
    }
}

#[test]
fn every_key_is_documented() {
    for key in Config::reference() {
        assert!(key.doc.len() > 20 && key.doc.ends_with('.'), "{}.{}: {:?}", key.section, key.key, key.doc);
    }
}
