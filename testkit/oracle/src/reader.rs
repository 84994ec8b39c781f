//! Reads a history line by line: bounded memory whatever the file's size, and errors that name the line.

use std::{io::BufRead, io::Read as _};

use crate::history::{FORMAT, Header, Line};

/// A line longer than this is an error: the longest are ledgers, some hundred kilobytes.
pub const LINE_BYTES: u64 = 16 * 1024 * 1024;

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file.
    #[error("line {line}: cannot be read: {source}")]
    Io {
        /// Counted from 1.
        line: u64,
        /// What the system says.
        source: std::io::Error,
    },
    /// A line that is none.
    #[error("line {line}: not a line of a history: {why}")]
    Malformed {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// Lines that do not fit together.
    #[error("line {line}: {why}")]
    Inconsistent {
        /// Counted from 1.
        line: u64,
        /// What does not fit.
        why: String,
    },
}

/// An iterator over the lines after the header.
pub struct Reader<R> {
    from: R,
    header: Header,
    line: u64,
    buffer: Vec<u8>,
    failed: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// The first line is no header, or of another format.
    pub fn new(from: R) -> Result<Self, HistoryError> {
        let mut me = Self { from, header: Header::default(), line: 0, buffer: Vec::new(), failed: false };
        match me.read()? {
            Some(Line::Header(header)) if header.format == FORMAT => me.header = header,
            Some(Line::Header(header)) => {
                let why = format!("history format {}, this build reads {FORMAT}", header.format);
                return Err(HistoryError::Inconsistent { line: 1, why });
            }
            _ => {
                let why = "a history begins with its header line".into();
                return Err(HistoryError::Inconsistent { line: 1, why });
            }
        }
        Ok(me)
    }

    /// What the run was.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The number of the line that was read last, counted from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    fn read(&mut self) -> Result<Option<Line>, HistoryError> {
        let line = self.line + 1;
        self.buffer.clear();
        let limited = &mut (&mut self.from).take(LINE_BYTES);
        let read = limited.read_until(b'\n', &mut self.buffer);
        if read.map_err(|source| HistoryError::Io { line, source })? == 0 {
            return Ok(None);
        }
        self.line = line;
        if self.buffer.pop_if(|b| *b == b'\n').is_none() {
            let why = if self.buffer.len() as u64 == LINE_BYTES {
                format!("longer than {LINE_BYTES} bytes")
            } else {
                "cut off: the writer did not finish it".into()
            };
            return Err(HistoryError::Malformed { line, why });
        }
        serde_json::from_slice(&self.buffer)
            .map(Some)
            .map_err(|e| HistoryError::Malformed { line, why: e.to_string() })
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Line, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.read().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}
