//! `milletctl`: a client on the command line. Here: arguments, exit codes, and what is printed where; the
//! words for failed calls are in `explain`, the members of the metadata store in `meta`. Knows the cluster
//! only through `millet-client` and the wire contracts.

mod explain;
mod meta;

use std::{process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, error::ErrorKind as Usage};
use millet_client::Client;
use millet_core::{CallError, Ran, limits};

use explain::{one_line, problem};

const EXITS: &str = "Exit codes:
  0  answered; the result is on standard output, as JSON
  1  the grain ran and refused, or panicked
  2  nothing ran: no node reached, not available, or wrong arguments
  3  outcome unknown: read back before repeating

There are `grain call` and `meta`; nodes and leases have no commands yet.";

/// Calls grains of a Millet cluster, and looks after the members of its metadata store.
#[derive(Parser)]
#[command(name = "milletctl", version, after_help = EXITS)]
struct Cli {
    /// API listeners of one or more nodes, separated by commas; the first that answers is asked.
    #[arg(
        long,
        global = true,
        env = "MILLET_ENDPOINT",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7401"
    )]
    endpoint: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What concerns single grains.
    #[command(subcommand)]
    Grain(Grain),
    /// The members of the metadata store: status, add, replace, remove, transfer, backup.
    Meta(meta::Meta),
}

#[derive(Subcommand)]
enum Grain {
    /// Calls a method and prints its result as JSON.
    #[command(after_help = EXITS)]
    Call(Call),
}

#[derive(Args)]
struct Call {
    /// Which grain: type and key, as in realm.Player/42.
    #[arg(value_name = "TYPE/KEY", value_parser = target)]
    grain: (String, String),
    /// The method, spelled as declared.
    method: String,
    /// Its arguments as a JSON object (proto3 JSON for grains from .proto files).
    #[arg(value_name = "JSON", default_value = "{}")]
    args: String,
    /// Seconds to wait for the end, at most 60; fractions are allowed.
    #[arg(long, value_name = "S", default_value = "10", value_parser = timeout)]
    timeout: Duration,
}

fn target(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((service, key)) if !service.is_empty() && !key.is_empty() => Ok((service.into(), key.into())),
        _ => Err("write TYPE/KEY, as in realm.Player/42".into()),
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    seconds
        .filter(|s| !s.is_zero() && *s <= limits::MAX_DEADLINE)
        .ok_or_else(|| format!("write seconds, more than 0 and at most {}", limits::MAX_DEADLINE.as_secs()))
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if matches!(e.kind(), Usage::DisplayHelp | Usage::DisplayVersion) => e.exit(),
        Err(e) => return usage(&e.to_string()),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return say(2, &format!("the system gives no timer or network: {e}"), &cli.endpoint, "-"),
    };
    match cli.command {
        Command::Grain(Grain::Call(call)) => runtime.block_on(run(&cli.endpoint, call)),
        Command::Meta(meta) => {
            let admin = meta.admin.clone();
            match runtime.block_on(meta::run(meta)) {
                Ok(text) => {
                    print!("{text}");
                    ExitCode::SUCCESS
                }
                Err(meta::Trouble(code, what, next)) => say(code, &what, &admin, &next),
            }
        }
    }
}

async fn run(endpoint: &str, call: Call) -> ExitCode {
    let client = match Client::connect(endpoint.split(',').map(str::trim)) {
        Ok(client) => client,
        Err(e) => {
            return say(
                2,
                &e.to_string(),
                endpoint,
                "name a node's node.api_listen with --endpoint or MILLET_ENDPOINT",
            );
        }
    };
    let Call { grain: (service, key), method, args, timeout } = call;
    match client.call_json(&service, &key, &method, &args, timeout).await {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            let (what, next) = problem(&e);
            say(exit_code(&e), &format!("{service}/{key} {method}: {what}"), endpoint, next)
        }
    }
}

fn exit_code(error: &CallError<String>) -> u8 {
    match error.ran() {
        Ran::Yes => 1,
        Ran::No => 2,
        Ran::Unknown => 3,
    }
}

/// Three lines: what happened, where it was asked, what to do next.
fn say(code: u8, what: &str, endpoint: &str, next: &str) -> ExitCode {
    eprintln!("error: {}\n   at: {endpoint}\n next: {next}", one_line(what));
    code.into()
}

/// Three lines as well, of the many that the parser would print.
fn usage(parser: &str) -> ExitCode {
    let what = parser.split("\n\n").next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(what);
    eprintln!("error: {}", one_line(what));
    eprintln!(
        "usage: milletctl [--endpoint HOST:PORT] grain call TYPE/KEY METHOD [JSON] [--timeout S] | meta [--admin HOST:PORT] status|add|replace|remove|cancel|transfer|backup"
    );
    eprintln!(" next: milletctl --help");
    2.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_key_may_contain_slashes_and_must_be_there() {
        assert_eq!(target("realm.Player/42"), Ok(("realm.Player".into(), "42".into())));
        assert_eq!(target("a.B/c/d"), Ok(("a.B".into(), "c/d".into())));
        for bad in ["realm.Player", "/42", "realm.Player/", ""] {
            assert!(target(bad).is_err_and(|e| e.contains("realm.Player/42")), "{bad}");
        }
    }

    #[test]
    fn a_timeout_is_more_than_nothing_and_at_most_a_minute() {
        assert_eq!(timeout("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(timeout("60"), Ok(Duration::from_secs(60)));
        for bad in ["0", "-1", "61", "NaN", "soon"] {
            assert!(timeout(bad).is_err_and(|e| e.contains("60")), "{bad}");
        }
    }
}
