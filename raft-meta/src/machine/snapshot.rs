//! The replicated state as bytes, in one fixed order: for snapshots, and for the hash by which members
//! are compared.
//!
//! Layout: magic, version byte, length (u32) and postcard of the head and, unless empty, of what came later (`More`, then
//! `Outcomes`), row count (u64), rows of 36 or
//! 48 bytes each behind a tag byte, xxh3-64 of all before. Numbers are little endian.

use std::io::{self, Read, Write};

use millet_core::{Grant, SessionId};
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::Xxh3;

use super::{
    CodecError, FEATURE_LEVEL, FORMAT, Head, LeaseKey, Machine, More, State, lease::LeaseRow,
    lease::LeaseTable, members::Outcomes,
};

const MAGIC: [u8; 4] = *b"MLtM";
/// A head is sessions, types and shard tables within their limits; more is damage, not data.
const HEAD_BYTES: u32 = 1 << 30;

impl Machine {
    /// Writes the replicated state.
    pub fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        self.state.write_to(to)
    }

    /// Reads what [`Machine::write_to`] wrote. Nothing is remembered of the time before.
    pub fn read_from(from: &mut dyn Read) -> io::Result<Self> {
        State::read_from(from).map(Self::from_state)
    }

    /// A hash of the replicated state: equal on all members that are at the same entry.
    pub fn state_hash(&self) -> u64 {
        let mut out = Hashing { to: io::sink(), hash: Xxh3::new() };
        self.state.write_body(&mut out).expect("a sink takes everything");
        out.hash.digest()
    }

    pub(super) fn picture(&self) -> Picture {
        Picture(self.state.clone())
    }
}

/// The state as of one entry, to be written out elsewhere while the machine goes on.
pub(super) struct Picture(State);

impl Picture {
    pub(super) fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.write_to(to)
    }
}

/// Hashes what passes through.
struct Hashing<T> {
    to: T,
    hash: Xxh3,
}
impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
impl<T: Read> Hashing<T> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.to.read_exact(&mut bytes)?;
        self.hash.update(&bytes);
        Ok(bytes)
    }
}

fn damaged(why: impl ToString) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        CodecError::Damaged { what: "meta snapshot", why: why.to_string() },
    )
}

/// What came later, which earlier builds did not write.
fn part<T: Default + DeserializeOwned>(bytes: &[u8]) -> io::Result<(T, &[u8])> {
    match bytes {
        [] => Ok((T::default(), bytes)),
        _ => postcard::take_from_bytes(bytes).map_err(damaged),
    }
}

impl State {
    fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut out = Hashing { to, hash: Xxh3::new() };
        self.write_body(&mut out)?;
        let sum = out.hash.digest();
        out.to.write_all(&sum.to_le_bytes())
    }

    fn write_body(&self, out: &mut impl Write) -> io::Result<()> {
        let mut head = postcard::to_stdvec(&self.head).map_err(io::Error::other)?;
        let outcomes = self.outcomes != Outcomes::default();
        if outcomes || self.more != More::default() {
            head = postcard::to_extend(&self.more, head).map_err(io::Error::other)?;
        }
        if outcomes {
            head = postcard::to_extend(&self.outcomes, head).map_err(io::Error::other)?;
        }
        let len = u32::try_from(head.len()).ok().filter(|n| *n <= HEAD_BYTES);
        let len = len.ok_or_else(|| damaged(format!("a head of {} bytes", head.len())))?;
        out.write_all(&MAGIC)?;
        out.write_all(&[FORMAT])?;
        out.write_all(&len.to_le_bytes())?;
        out.write_all(&head)?;
        out.write_all(&self.leases.rows().to_le_bytes())?;
        let mut row_bytes = Vec::with_capacity(64);
        for (key, row, previous) in self.leases.iter() {
            row_bytes.clear();
            row_bytes.push(u8::from(previous.is_some()));
            row_bytes.extend_from_slice(&key.0);
            row_bytes.extend_from_slice(&row.session().0.to_le_bytes());
            for grant in std::iter::once(row.grant()).chain(previous) {
                row_bytes.extend_from_slice(&grant.generation.to_le_bytes());
                row_bytes.extend_from_slice(&grant.index.to_le_bytes());
            }
            out.write_all(&row_bytes)?;
        }
        Ok(())
    }

    fn read_from(from: &mut dyn Read) -> io::Result<Self> {
        let mut from = Hashing { to: from, hash: Xxh3::new() };
        if from.take::<4>()? != MAGIC {
            return Err(damaged("not a meta snapshot"));
        }
        let [version] = from.take::<1>()?;
        if version != FORMAT {
            let error = CodecError::Version { what: "meta snapshot", found: version };
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        let len = u32::from_le_bytes(from.take()?);
        if len > HEAD_BYTES {
            return Err(damaged(format!("a head of {len} bytes")));
        }
        let mut head = Vec::new();
        (&mut from.to).take(u64::from(len)).read_to_end(&mut head)?;
        from.hash.update(&head);
        let (head, rest) = postcard::take_from_bytes::<Head>(&head).map_err(damaged)?;
        let (more, rest) = part::<More>(rest)?;
        let (outcomes, left) = part::<Outcomes>(rest)?;
        if !left.is_empty() {
            return Err(damaged(format!("{} bytes behind its head", left.len())));
        }
        // A build that goes on without knowing what others apply differs from them for ever (R24).
        if head.feature > FEATURE_LEVEL {
            let why = format!(
                "it has feature level {}, this build knows up to {FEATURE_LEVEL}; upgrade this member",
                head.feature
            );
            return Err(damaged(why));
        }
        let leases = Self::read_rows(&mut from)?;
        let sum = from.hash.digest();
        if from.take::<8>()? != sum.to_le_bytes() {
            return Err(damaged("its checksum differs"));
        }
        Ok(Self { head, more, outcomes, leases })
    }

    fn read_rows<T: Read>(from: &mut Hashing<T>) -> io::Result<LeaseTable> {
        fn grant<T: Read>(from: &mut Hashing<T>) -> io::Result<Grant> {
            Ok(Grant {
                generation: u32::from_le_bytes(from.take()?),
                index: u64::from_le_bytes(from.take()?),
            })
        }
        let mut leases = LeaseTable::default();
        for _ in 0..u64::from_le_bytes(from.take()?) {
            let [moved] = from.take::<1>()?;
            let key = LeaseKey(from.take()?);
            let row = LeaseRow::new(SessionId(u64::from_le_bytes(from.take()?)), grant(from)?);
            let previous = if moved == 0 { None } else { Some(grant(from)?) };
            leases.put(key, row, previous);
        }
        Ok(leases)
    }
}
