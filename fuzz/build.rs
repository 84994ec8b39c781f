//! Compiles the contract of the gateway's target: every kind of field that protobuf has.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/all.proto");
    let set = protox::compile(["all.proto"], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is set by cargo")?);
    Ok(std::fs::write(out.join("all.bin"), set.encode_to_vec())?)
}
