//! The contract-first front: what it generates (a golden file, which `macros/tests/contract.rs` compiles
//! and runs), and what it refuses.

use std::{fs, path::Path};

use millet_stub_gen::proto;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

fn generate(source: &str) -> Result<String, String> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("t.proto");
    fs::write(&file, source).expect("written");
    proto::configure().out_dir(dir.path()).compile(&[&file], &[dir.path()]).map_err(|e| e.to_string())?;
    Ok(fs::read_to_string(dir.path().join("t.rs")).expect("generated for package t"))
}

fn service(body: &str) -> String {
    format!("syntax = \"proto3\"; package t; message M {{ string a = 1; }} service S {{ {body} }}")
}

fn refused(source: &str, wanted: &str) {
    let error = generate(source).expect_err("must be refused");
    assert!(error.contains(wanted), "{error}");
}

/// `MILLET_BLESS=1 cargo test -p millet-stub-gen --features proto` writes the files anew.
#[test]
fn generated_code_is_the_golden_one() {
    let golden = Path::new(HERE).join("tests/golden");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = if std::env::var_os("MILLET_BLESS").is_some() { golden.clone() } else { dir.path().to_owned() };
    let protos = Path::new(HERE).join("tests/proto");
    proto::configure().out_dir(&out).compile(&[protos.join("arena.proto")], &[&protos]).expect("a good file");
    for file in ["arena.rs", "arena.descriptors.bin"] {
        let made = fs::read(out.join(file)).expect("generated");
        let wanted = fs::read(golden.join(file)).expect("golden");
        assert!(
            made == wanted,
            "{file} differs from the golden one; if that is meant, run with MILLET_BLESS=1"
        );
    }
}

#[test]
fn a_streaming_method_is_refused_by_name() {
    refused(&service("rpc Feed(M) returns (stream M);"), "service t.S: rpc Feed streams");
    refused(&service("rpc Feed(stream M) returns (M);"), "service t.S: rpc Feed streams");
}

#[test]
fn a_service_without_methods_is_refused() {
    refused(&service(""), "t.S has no methods");
}

#[test]
fn methods_that_would_share_a_rust_name_are_refused() {
    refused(
        &service("rpc AddGold(M) returns (M); rpc add_gold(M) returns (M);"),
        "would both be called `AddGold`",
    );
}

#[test]
fn a_wrong_key_kind_is_refused_with_the_line() {
    let source = "syntax = \"proto3\"; package t; import \"millet/options.proto\"; message M {}\n\
                  service S { option (millet.key) = UUID; rpc Get(M) returns (M); }";
    refused(source, "UUID");
}

#[test]
fn keys_are_text_unless_the_service_says_otherwise() {
    let code = generate(&service("rpc Get(M) returns (M);")).expect("good");
    assert!(code.contains("::millet::rt::KeyKind::Text"), "{code}");
    let int = "syntax = \"proto3\"; package t; import \"millet/options.proto\"; message M {}\n\
               service S { option (millet.key) = INT; rpc Get(M) returns (M); }";
    let code = generate(int).expect("good");
    assert!(code.contains("::millet::rt::KeyKind::Int"), "{code}");
}

#[test]
fn without_hosting_only_callers_code_is_generated() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let protos = Path::new(HERE).join("tests/proto");
    proto::configure()
        .hosting(false)
        .out_dir(dir.path())
        .compile(&[protos.join("arena.proto")], &[&protos])
        .expect("a good file");
    let code = fs::read_to_string(dir.path().join("arena.rs")).expect("generated");
    assert!(code.contains("impl ::millet::rt::Method for duel::Strike"));
    assert!(!code.contains("Hosted") && !code.contains("GrainRef"));
}
