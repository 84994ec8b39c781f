//! What ends a process that cannot go on: a runtime that hangs must not keep its leases, a member whose
//! disk fails must not carry on.

use std::sync::Arc;

/// Ends the process, saying why; a simulator ends the simulated one.
pub type Fatal = Arc<dyn Fn(String) + Send + Sync>;

/// Says why and aborts.
pub fn abort() -> Fatal {
    Arc::new(|why| {
        // A disk that is full may hold the log too: writing to it may panic, and nobody may go on then.
        let _abort = Abort;
        tracing::error!(why, "the node cannot go on");
    })
}

/// Ends the process when it is dropped, by a panic too.
struct Abort;

impl Drop for Abort {
    fn drop(&mut self) {
        std::process::abort()
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::Command};

    const CHILD: &str = "MILLET_TEST_ABORT";

    /// Suggested by torture: where the log lies on the disk that is full, the last words of a member
    /// cannot be written, and writing them panics.
    #[test]
    fn a_node_that_cannot_go_on_ends_even_if_its_log_cannot_be_written() {
        if std::env::var_os(CHILD).is_some() {
            let broken = || -> std::io::Stderr { panic!("no space for the log") };
            let _log =
                tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(broken).finish());
            super::abort()("a test".into());
            return;
        }
        let own = std::env::current_exe().expect("this program");
        let name = "a_node_that_cannot_go_on_ends_even_if_its_log_cannot_be_written";
        let ended = Command::new(own).args([name, "--nocapture"]).env(CHILD, "1").output().expect("it runs");
        const SIGABRT: i32 = 6;
        assert_eq!(ended.status.signal(), Some(SIGABRT), "{ended:?}");
    }
}
