//! Turns the realm's contracts into grain interfaces; needs no protoc.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    millet_stub_gen::proto::compile(&["proto/realm.proto"], &["proto"])?;
    Ok(())
}
