//! Writes a history. One writer per history; drivers put a lock around it.

use std::io::{self, Write};

use crate::history::{Header, Line};

/// Writes lines.
pub struct Writer<W: Write>(W);

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(to: W, header: &Header) -> io::Result<Self> {
        let mut me = Self(to);
        me.write(&Line::Header(header.clone()))?;
        Ok(me)
    }

    /// Writes one line.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, line)?;
        self.0.write_all(b"\n")
    }

    /// Hands on what is buffered.
    ///
    /// # Errors
    /// What the system says.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
