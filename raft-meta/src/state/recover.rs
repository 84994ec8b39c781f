//! The `state` group's rows in backups and recoveries: what they hold, and how they begin a new cluster
//! (R16). Rows are read one at a time, in the form of a snapshot's content.

use std::io::{self, Read, Write};

use millet_core::{Grant, SessionId};

use super::{
    copy::{read_row, write_end, write_row},
    rows::{self, GENERATION, OLDEST, SWEEP},
};

/// What a copy of the state holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateSurvey {
    /// Rows of all kinds.
    pub rows: u64,
    /// Grains' values.
    pub values: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// The largest generation that any floor names.
    pub generation: u32,
    /// The oldest session that was taken.
    pub oldest: SessionId,
}

/// Reads a copy through.
pub fn survey(content: &mut dyn Read) -> io::Result<StateSurvey> {
    let mut found = StateSurvey::default();
    while let Some((key, value)) = read_row(content)? {
        found.rows += 1;
        found.bytes += (key.len() + value.len()) as u64;
        match key.first() {
            Some(b'g' | b's') => {
                found.generation = found.generation.max(rows::decode_grant(&value)?.generation)
            }
            Some(b'h') => {
                found.generation = found.generation.max(rows::Head::decode(&value)?.floor.grant.generation);
            }
            Some(b'v') => found.values += 1,
            Some(_) | None => {}
        }
        if key == OLDEST {
            found.oldest = SessionId(rows::decode_u64(&value)?);
        } else if key == GENERATION {
            found.generation = found.generation.max(rows::decode_grant(&value)?.generation);
        }
    }
    Ok(found)
}

/// Writes a copy as the first state of a new cluster: values, versions and floors as they are, but one floor
/// at `generation` for all types, those included that have no row, so that no token of the old cluster is
/// taken any more (G1), and no session below `oldest`.
pub fn recover(
    content: &mut dyn Read,
    to: &mut dyn Write,
    generation: u32,
    oldest: SessionId,
) -> io::Result<()> {
    while let Some((key, value)) = read_row(content)? {
        // A type's own floor lies below the one for all.
        if key.first() != Some(&b'g') && ![GENERATION, OLDEST, SWEEP].contains(&&key[..]) {
            write_row(to, &key, &value)?;
        }
    }
    write_row(to, GENERATION, &rows::encode_grant(Grant { generation, index: 0 }))?;
    write_row(to, OLDEST, &rows::encode_u64(oldest.0))?;
    write_end(to)
}
