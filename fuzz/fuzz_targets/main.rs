//! libFuzzer's entry: runs the target that `MILLET_FUZZ_TARGET` names. `MILLET_FUZZ_SEEDS` names the folder
//! that its seeds are written to before the corpus is read.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use millet_fuzz::{Target, allocation::Counted};

#[global_allocator]
static ALLOCATOR: Counted = Counted;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fn begin() -> &'static Target {
    let name = std::env::var("MILLET_FUZZ_TARGET").unwrap_or_default();
    let known = || millet_fuzz::TARGETS.iter().map(|t| t.name).collect::<Vec<_>>().join(", ");
    let target = millet_fuzz::TARGETS.iter().find(|t| t.name == name);
    let target = target.unwrap_or_else(|| panic!("MILLET_FUZZ_TARGET is {name:?}; targets are {}", known()));
    if let Some(dir) = std::env::var_os("MILLET_FUZZ_SEEDS") {
        target.write_seeds(dir.as_ref()).expect("the folder of seeds can be written");
    }
    // libFuzzer's hook ends the process at every panic; a panic that the product catches is none of its
    // business. One that comes this far ends it all the same.
    drop(std::panic::take_hook());
    target
}

fuzz_target!(init: { TARGET.get_or_init(begin); }, |input: &[u8]| {
    TARGET.get().expect("set before the first input").run(input);
});
