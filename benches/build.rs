//! Compiles the contracts of the floors and of the echoing grain, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const CONTRACTS: [&str; 2] = ["proto/floor.proto", "proto/etcd.proto"];
    CONTRACTS.iter().for_each(|file| println!("cargo:rerun-if-changed={file}"));
    let set = protox::compile(CONTRACTS, ["proto"])?;
    tonic_prost_build::configure().compile_fds(set)?;
    millet_stub_gen::proto::compile(&["proto/echo.proto"], &["proto"])?;
    Ok(())
}
