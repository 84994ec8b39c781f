//! The other clients: one per port, each on a connection of its own, calling all the time.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{
    call::{Connection, good, is_served},
    child::Target,
};

/// Between two calls of one of them.
const PACE: Duration = Duration::from_millis(10);

/// What they have seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub served: usize,
    pub errors: Vec<String>,
    pub slowest: Duration,
}

/// They call until the value is dropped.
pub struct Others {
    seen: Arc<Mutex<Seen>>,
    tasks: tokio::task::JoinSet<()>,
}

impl Others {
    /// Starts one on each port.
    pub fn start(target: &Target) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut tasks = tokio::task::JoinSet::new();
        for (port, addr) in target.ports() {
            tasks.spawn(calls(port, addr, seen.clone()));
        }
        Self { seen, tasks }
    }

    /// Calls answered so far.
    pub fn seen_served(&self) -> usize {
        self.seen.lock().expect("no panic holds it").served
    }

    /// Ends them; what they have seen.
    pub async fn end(mut self) -> Seen {
        self.tasks.shutdown().await;
        self.seen.lock().expect("no panic holds it").clone()
    }
}

async fn calls(port: &'static str, addr: SocketAddr, seen: Arc<Mutex<Seen>>) {
    let note = |result: Result<Duration, String>| {
        let mut seen = seen.lock().expect("no panic holds it");
        match result {
            Ok(took) => {
                seen.served += 1;
                seen.slowest = seen.slowest.max(took);
            }
            Err(why) => seen.errors.push(format!("{port}: {why}")),
        }
    };
    let connection = match Connection::open(addr).await {
        Ok(connection) => connection,
        Err(why) => return note(Err(why)),
    };
    let (path, headers, message) = good(port);
    loop {
        let start = Instant::now();
        let answer = connection.call(path, headers, message.clone()).await;
        let served = is_served(port, &answer);
        note(if served { Ok(start.elapsed()) } else { Err(answer.short()) });
        if !served {
            return;
        }
        // tidy: sleep: the pace of a client
        tokio::time::sleep(PACE).await;
    }
}
