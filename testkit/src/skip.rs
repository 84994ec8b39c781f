//! Tests whose tool is missing say so; where every tool must be there, that is a failure.

/// Prints `SKIPPED test: needs tool`; the test then returns.
///
/// # Panics
/// With `MILLET_NO_SKIP=1` in the environment (continuous integration, which installs the tools).
pub fn skip(test: &str, needs: &str) {
    let strict = std::env::var_os("MILLET_NO_SKIP").is_some_and(|v| v == "1");
    assert!(!strict, "{test} needs {needs}, and MILLET_NO_SKIP=1 forbids skipping; install it");
    skip_unprivileged(test, needs);
}

/// The same for a privilege, root for one, which nobody can install: never a failure.
pub fn skip_unprivileged(test: &str, needs: &str) {
    // Standard error is captured per test too; `println` is what `cargo test -- --nocapture` shows.
    println!("SKIPPED {test}: needs {needs}");
}
