//! Names from outside are checked once, where they come in, and every refusal says what is wrong.

use millet_core::{ErrorKind, GrainId, GrainType, Key, KeyKind, Ran, limits};

fn why(refused: Result<Key, ErrorKind>) -> String {
    match refused {
        Err(ErrorKind::BadKey { why }) => why,
        other => panic!("expected BadKey, got {other:?}"),
    }
}

#[test]
fn an_empty_key_is_refused() {
    assert!(why(Key::text("")).contains("empty"));
}

#[test]
fn a_key_over_the_limit_is_refused_with_both_sizes() {
    assert!(Key::text(&"k".repeat(limits::KEY_BYTES)).is_ok());
    let why = why(Key::text(&"k".repeat(limits::KEY_BYTES + 1)));
    assert!(why.contains("1025") && why.contains("1024"), "{why}");
}

#[test]
fn a_limit_counts_bytes_not_characters() {
    assert!(Key::text(&"é".repeat(limits::KEY_BYTES / 2)).is_ok());
    assert!(Key::text(&"é".repeat(limits::KEY_BYTES / 2 + 1)).is_err());
}

#[test]
fn a_control_character_is_refused_with_its_place() {
    for (key, place) in
        [("a\nb", "U+000A at byte 1"), ("\0", "U+0000 at byte 0"), ("é\u{85}", "U+0085 at byte 2")]
    {
        let why = why(Key::text(key));
        assert!(why.contains(place), "{why}");
    }
}

#[test]
fn r32_an_integer_key_has_one_spelling() {
    assert_eq!(Key::parse(KeyKind::Int, "42").unwrap(), Key::Int(42));
    assert_eq!(Key::parse(KeyKind::Int, "18446744073709551615").unwrap(), Key::Int(u64::MAX));
    for odd in ["042", "+42", "-1", " 42", "4_2", "0x2a", "", "18446744073709551616", "four"] {
        assert!(why(Key::parse(KeyKind::Int, odd)).contains("integer"), "{odd:?}");
    }
}

#[test]
fn r32_digits_stay_text_where_the_type_has_text_keys() {
    let text = Key::parse(KeyKind::Text, "42").unwrap();
    assert_eq!(text.kind(), KeyKind::Text);
    assert_ne!(text, Key::Int(42));
}

#[test]
fn r32_the_two_kinds_of_key_never_share_a_hash() {
    let ty = GrainType::new("realm.Player").unwrap();
    let text = GrainId::new(ty.clone(), Key::text("42").unwrap());
    let int = GrainId::new(ty, 42_u64);
    assert_ne!(millet_core::hash::grain_hash(&text), millet_core::hash::grain_hash(&int));
}

#[test]
fn a_type_name_outside_its_alphabet_is_no_such_grain() {
    assert!(GrainType::new("realm.Player-2_b").is_ok());
    let long = "t".repeat(limits::TYPE_NAME_BYTES + 1);
    for name in ["", "a b", "spieler/ä", "a\n", long.as_str()] {
        let refused = GrainType::new(name).unwrap_err();
        assert!(matches!(refused, ErrorKind::NoSuchGrain { .. }), "{name:?}");
        assert_eq!(refused.ran(), Ran::No);
    }
}

#[test]
fn an_unknown_type_lists_the_known_ones() {
    let error = ErrorKind::NoSuchGrain { ty: "realm.Plaier".into(), known: "realm.Player".into() };
    assert_eq!(error.to_string(), "no grain type \"realm.Plaier\"; known: realm.Player");
}
