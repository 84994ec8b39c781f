//! Compiles the wire contracts with protox, so that no protoc is needed, and writes down what of each
//! message repeats (`src/codec.rs`).
use std::fmt::Write as _;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["common", "meta", "raft", "state", "peer", "members"].map(|f| format!("proto/{f}.proto"));
    for f in &files {
        println!("cargo:rerun-if-changed={f}");
    }
    let set = protox::compile(&files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is set by cargo")?);
    std::fs::write(out.join("millet.bin"), set.encode_to_vec())?;
    std::fs::write(
        out.join("shapes.rs"),
        shapes(&prost_types::FileDescriptorSet::decode(&*set.encode_to_vec())?),
    )?;
    let mut prost = tonic_prost_build::Config::new();
    prost.enable_type_names();
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::Bounded")
        .compile_fds_with_config(set, prost)?;
    Ok(())
}

/// The fields of every message that repeat or hold messages; which messages are requests.
fn shapes(set: &prost_types::FileDescriptorSet) -> String {
    let mut messages = Vec::new();
    let mut requests = std::collections::BTreeSet::new();
    for file in &set.file {
        let package = format!(".{}", file.package());
        file.message_type.iter().for_each(|m| gather(&package, m, &mut messages));
        let methods = file.service.iter().flat_map(|s| &s.method);
        requests.extend(methods.map(|m| m.input_type().to_owned()));
    }
    let index = |name: &str| messages.iter().position(|(n, _)| n == name).expect("a message of the set");
    let mut text = String::from("const SHAPES: &[Shape] = &[\n");
    for (name, message) in &messages {
        let request = requests.contains(name);
        write!(text, "Shape {{ name: {:?}, request: {request}, fields: &[", &name[1..]).expect("a string");
        for field in &message.field {
            use prost_types::field_descriptor_proto::{Label, Type};
            let repeated = field.label() == Label::Repeated;
            let inner = (field.r#type() == Type::Message).then(|| index(field.type_name()));
            if inner.is_some() || repeated {
                let number = field.number();
                let packs = inner.is_none() && !matches!(field.r#type(), Type::String | Type::Bytes);
                write!(
                    text,
                    "Field {{ number: {number}, repeated: {repeated}, packs: {packs}, message: {inner:?} }},"
                )
                .expect("a string");
            }
        }
        text.push_str("] },\n");
    }
    text + "];\n"
}

type Messages<'a> = Vec<(String, &'a prost_types::DescriptorProto)>;

fn gather<'a>(parent: &str, message: &'a prost_types::DescriptorProto, to: &mut Messages<'a>) {
    let name = format!("{parent}.{}", message.name());
    message.nested_type.iter().for_each(|inner| gather(&name, inner, to));
    to.push((name, message));
}
