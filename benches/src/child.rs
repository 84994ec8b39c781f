//! Other processes of a row: this same program, started again with another task. A child says one line when
//! it is ready, one for each thing it is told to do, and ends when its standard input does, so that none
//! outlives the run.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child as Process, ChildStdout, Command, Stdio},
    sync::mpsc,
};

use anyhow::{Context, Result, ensure};

/// A child; ended when dropped.
pub struct Child {
    process: Process,
    out: Option<BufReader<ChildStdout>>,
    /// The words of its line.
    pub said: Vec<String>,
}

/// The first word of a child's line.
const READY: &str = "ready";

impl Child {
    /// Starts this program with these words and waits until it is ready.
    pub fn start(words: &[&str]) -> Result<Self> {
        Self::spawn(words)?.ready()
    }

    /// Starts this program with these words.
    pub fn spawn(words: &[&str]) -> Result<Self> {
        let program = std::env::current_exe().context("finding this program's own file")?;
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("starting another process")?;
        let out = process.stdout.take().map(BufReader::new);
        Ok(Self { process, out, said: Vec::new() })
    }

    /// Waits until it is ready or has ended.
    pub fn ready(mut self) -> Result<Self> {
        self.said = self.hears()?;
        Ok(self)
    }

    /// Tells it to do something.
    pub fn tell(&mut self, what: &str) -> Result<()> {
        let input = self.process.stdin.as_mut().context("its input is piped")?;
        writeln!(input, "{what}")?;
        Ok(input.flush()?)
    }

    /// Waits for the next line it says; the words after the first.
    pub fn hears(&mut self) -> Result<Vec<String>> {
        let mut line = String::new();
        self.out.as_mut().context("its output is piped")?.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        ensure!(words.next().as_deref() == Some(READY), "another process ended before it was ready");
        Ok(words.collect())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// In the child: says that it is ready.
pub fn say_ready(words: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{READY} {words}")?;
    Ok(out.flush()?)
}

/// In the child: ends the process when the parent has gone, however it went. What the parent says meanwhile.
pub fn end_with_parent() -> mpsc::Receiver<String> {
    // As many as a row ever says at once.
    let (said, heard) = mpsc::sync_channel(8);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            // A child that listens to nothing is told nothing.
            let _ = said.try_send(line);
        }
        std::process::exit(0);
    });
    heard
}
