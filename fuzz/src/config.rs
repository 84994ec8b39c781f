//! Settings from a file and the environment: read, or refused with a reason; what is read can be written
//! and read again.

use millet::config::Config;

use crate::bytes::{Input, piece};

pub(crate) fn run(input: &[u8]) {
    let mut input = Input(input);
    let env = (
        String::from_utf8_lossy(input.piece()).into_owned(),
        String::from_utf8_lossy(input.piece()).into_owned(),
    );
    let text = String::from_utf8_lossy(input.rest());
    match Config::read(Some(("fuzz.toml", &text)), [env]) {
        Ok(config) => {
            let written = config.to_toml();
            let again = Config::read(Some(("again.toml", &written)), []);
            let again = again.unwrap_or_else(|e| panic!("what was written is refused: {e}\n{written}"));
            assert_eq!(again, config);
        }
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let seed = |name: &str, value: &str, text: &str| {
        [piece(name.as_bytes()), piece(value.as_bytes()), text.as_bytes().to_vec()].concat()
    };
    let lines =
        "[cluster]\nid = \"game\"\nsession_ttl_ms = 0x1770\n[node]\nname = 'a\\b'\nroles = [\"meta\"]\n";
    vec![
        seed("", "", &Config::default().to_toml()),
        seed("MILLET_CLUSTER_SESSION_TTL_MS", "6000", lines),
        seed("MILLET_NODE_MEMBERS", "a:1, b:2", "node.name = \"\"\"x\ny\"\"\"\n"),
        seed("MILLET_NODE_NAME", "\u{7f}", ""),
        seed("", "", "[node]\nname = \"\\u00e9\\n\"\n"),
        seed("", "", "[cluster]\nheartbeat_ms = 1_000\nsesion_ttl_ms = 1\n"),
    ]
}
