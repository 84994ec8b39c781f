//! Compiles the wire contracts with protox, so that no protoc is needed.
use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["common", "meta", "raft", "state", "peer"].map(|f| format!("proto/{f}.proto"));
    for f in &files {
        println!("cargo:rerun-if-changed={f}");
    }
    let set = protox::compile(&files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is set by cargo")?);
    std::fs::write(out.join("millet.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(set)?;
    Ok(())
}
