//! The rows: names, what is expected, and the attacks.

mod calls;
mod connections;
mod floods;
mod lanes;
mod messages;

use futures::future::BoxFuture;

use crate::{
    call::{Answer, Connection, good, is_served},
    child::Target,
};

/// One attack.
pub struct Row {
    pub name: &'static str,
    pub expected: &'static str,
    /// It mostly waits.
    pub patient: bool,
    /// What was seen, or what was seen and should not have been.
    pub run: for<'a> fn(&'a Target) -> BoxFuture<'a, Result<String, String>>,
}

/// Names an async function as a row.
macro_rules! row {
    ($name:literal, $expected:literal, $run:path) => {
        crate::rows::Row { name: $name, expected: $expected, patient: false, run: |t| Box::pin($run(t)) }
    };
    ($name:literal, $expected:literal, patient $run:path) => {
        crate::rows::Row { name: $name, expected: $expected, patient: true, run: |t| Box::pin($run(t)) }
    };
}
use row;

/// Every row, in the order of the table.
pub fn all() -> Vec<Row> {
    let groups = [messages::rows(), calls::rows(), floods::rows(), lanes::rows(), connections::rows()];
    groups.into_iter().flatten().collect()
}

/// Whether an answer is the expected one; the connection must then still serve.
async fn answered(
    connection: &Connection,
    port: &'static str,
    answer: Answer,
    expected: &[tonic::Code],
    text: &str,
) -> Result<String, String> {
    let seen = format!("{port} {}", answer.short());
    if !answer.code.is_some_and(|code| expected.contains(&code)) || !answer.text.contains(text) {
        return Err(format!("{seen}, expected {expected:?} {text:?}"));
    }
    let (path, headers, message) = good(port);
    let next = connection.call(path, headers, message).await;
    if is_served(port, &next) { Ok(seen) } else { Err(format!("{seen}, then {}", next.short())) }
}
