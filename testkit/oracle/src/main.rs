//! `millet-oracle FILE…`: judges histories, prints one screen and the JSON line for all of them.
//! Exit 0: all pass; 1: a promise is broken; 2: a history cannot be read; 3: a run is invalid, or shows nothing.

use std::{env, fs::File, io::BufReader, process::ExitCode};

use millet_oracle::{Standing, Verdict, check_history};

fn main() -> ExitCode {
    let mut all = Verdict::default();
    let files: Vec<String> = env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("usage: millet-oracle FILE…   (histories as JSON lines)");
        return ExitCode::from(2);
    }
    for path in files {
        let verdict = match File::open(&path) {
            Ok(file) => check_history(BufReader::new(file)).map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        match verdict {
            Ok(verdict) => all.merge(verdict),
            Err(why) => {
                eprintln!("{path}: {why}");
                return ExitCode::from(2);
            }
        }
    }
    print!("{}", all.screen());
    println!("{}", all.summary());
    match all.standing() {
        Standing::Pass => ExitCode::SUCCESS,
        Standing::Fail => ExitCode::from(1),
        Standing::Invalid | Standing::Idle => ExitCode::from(3),
    }
}
