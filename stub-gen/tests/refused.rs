//! Wrong `#[grain]` definitions: the compiler's whole answer, which names the fix.

/// `TRYBUILD=overwrite cargo test -p millet-stub-gen --test refused` writes the answers anew.
#[test]
fn every_wrong_definition_is_answered_with_its_fix() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}
