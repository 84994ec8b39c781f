//! Keys and type names from any text: accepted and the same again, or refused, never a panic.

use millet_core::{GrainType, Key, KeyKind, limits};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn a_key_that_is_accepted_reads_back_as_itself(text in prop_oneof![".{0,40}", "[0-9+-]{0,25}", "\\PC{0,600}"]) {
        for kind in [KeyKind::Int, KeyKind::Text] {
            if let Ok(key) = Key::parse(kind, &text) {
                prop_assert!(text.len() <= limits::KEY_BYTES);
                prop_assert_eq!(key.to_string(), text.clone());
                prop_assert_eq!(Key::parse(kind, &key.to_string()), Ok(key));
            }
        }
    }

    #[test]
    fn every_number_is_a_key(n: u64) {
        prop_assert_eq!(Key::parse(KeyKind::Int, &n.to_string()), Ok(Key::Int(n)));
    }

    #[test]
    fn a_type_name_that_is_accepted_is_kept(text in prop_oneof![".{0,40}", "[a-zA-Z_.0-9]{0,140}"]) {
        if let Ok(ty) = GrainType::new(&text) {
            prop_assert!(text.len() <= limits::TYPE_NAME_BYTES && !text.is_empty());
            prop_assert_eq!(ty.as_str(), text.as_str());
        }
    }
}
