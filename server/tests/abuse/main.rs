//! Wire abuse: what anybody who reaches a port can send, against the peer, api and admin ports of a
//! running node in a process of its own. Of every row: the expected answer, memory that stays flat, other
//! clients that are served meanwhile, and ports that accept afterwards. A table at the end.
//!
//! `cargo test -p millet --test abuse`, or one row: `cargo xtask abuse --only ROW`.
#![allow(missing_docs, reason = "a test program")]

mod call;
mod child;
mod node;
mod others;
mod raw;
mod rows;
mod table;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(dir) = value(&args, "--node") {
        return node::run(&dir);
    }
    // Tools that ask every test program what it holds get an answer.
    if args.iter().any(|a| a == "--list") {
        println!("abuse: test");
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(table::run(value(&args, "--only").as_deref()))
}

fn value(args: &[String], name: &str) -> Option<String> {
    let at = args.iter().position(|a| a == name)?;
    args.get(at + 1).cloned()
}
