//! Takes an input apart: numbers and pieces from its beginning. What is missing reads as zeros, so that
//! every input means something.

/// What is left of an input.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub(crate) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// A number of two bytes.
    pub(crate) fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// A number of eight bytes: a small one, or one near the end of its range, or any.
    pub(crate) fn number(&mut self) -> u64 {
        match self.byte() {
            n @ 0..=0xef => u64::from(n),
            n @ 0xf0..=0xf7 => u64::MAX - u64::from(n & 7),
            _ => u64::from_le_bytes(self.array()),
        }
    }

    /// A piece behind its length in two bytes, or as much as is there.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let len = usize::from(self.short());
        self.take(len)
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// At most so many bytes.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }
}

/// A piece as [`Input::piece`] reads it.
pub(crate) fn piece(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("seeds are small");
    [&len.to_le_bytes(), bytes].concat()
}

/// The bytes of hexadecimal text: golden bytes are written so.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).expect("a hexadecimal digit") as u8;
    text.as_bytes().chunks(2).map(|two| digit(two[0]) << 4 | digit(two[1])).collect()
}
