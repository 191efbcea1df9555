//! Numbers and texts as bytes, and back. Reading trusts no length: it is checked against what is left.

use super::BlockError;

#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
    /// What the next difference counts from.
    before: i64,
}

impl Writer {
    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub(super) fn float(&mut self, value: f64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// The difference to the number before, short when it is small in either direction.
    pub(super) fn difference(&mut self, number: i64) {
        let difference = number.wrapping_sub(self.before);
        self.before = number;
        self.number(((difference << 1) ^ (difference >> 63)) as u64);
    }

    /// A column of numbers that mostly rise.
    pub(super) fn rising(&mut self, numbers: impl Iterator<Item = i64>) {
        self.before = 0;
        numbers.for_each(|number| self.difference(number));
    }

    /// A column in which some have no value: a bit each, then the values that are there.
    pub(super) fn optional<T>(
        &mut self,
        column: impl Iterator<Item = Option<T>> + Clone,
        mut put: impl FnMut(&mut Self, T),
    ) {
        self.before = 0;
        let begin = self.bytes.len();
        for (index, value) in column.clone().enumerate() {
            if index % 8 == 0 {
                self.bytes.push(0);
            }
            self.bytes[begin + index / 8] |= u8::from(value.is_some()) << (index % 8);
        }
        column.flatten().for_each(|value| put(self, value));
    }
}

#[derive(Debug)]
pub(super) struct Reader<'bytes> {
    rest: &'bytes [u8],
    /// What is being read, for errors.
    column: &'static str,
    before: i64,
}

impl<'bytes> Reader<'bytes> {
    pub(super) fn new(bytes: &'bytes [u8]) -> Self {
        Self { rest: bytes, column: "beginning", before: 0 }
    }

    pub(super) fn at(&mut self, column: &'static str) -> &mut Self {
        self.column = column;
        self
    }

    pub(super) fn malformed(&self) -> BlockError {
        BlockError::Malformed { column: self.column }
    }

    fn take(&mut self, bytes: usize) -> Result<&'bytes [u8], BlockError> {
        let (taken, rest) =
            self.rest.split_at_checked(bytes).ok_or(BlockError::Short { column: self.column })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn number(&mut self) -> Result<u64, BlockError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.malformed())
    }

    /// How many of something follow. Each takes a byte at least.
    pub(super) fn count(&mut self) -> Result<usize, BlockError> {
        let count = self.number()?;
        usize::try_from(count).ok().filter(|count| *count <= self.rest.len()).ok_or_else(|| self.malformed())
    }

    pub(super) fn text(&mut self) -> Result<&'bytes str, BlockError> {
        let bytes = self.count()?;
        std::str::from_utf8(self.take(bytes)?).map_err(|_| self.malformed())
    }

    pub(super) fn float(&mut self) -> Result<f64, BlockError> {
        Ok(self.floats(1)?[0])
    }

    pub(super) fn floats(&mut self, count: usize) -> Result<Vec<f64>, BlockError> {
        let bytes = count.checked_mul(8).ok_or_else(|| self.malformed())?;
        let (values, _) = self.take(bytes)?.as_chunks();
        Ok(values.iter().map(|value| f64::from_le_bytes(*value)).collect())
    }

    pub(super) fn difference(&mut self) -> Result<i64, BlockError> {
        let zigzag = self.number()?;
        let difference = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        self.before = self.before.wrapping_add(difference);
        Ok(self.before)
    }

    pub(super) fn rising(&mut self, count: usize) -> Result<Vec<i64>, BlockError> {
        self.before = 0;
        (0..count).map(|_| self.difference()).collect()
    }

    pub(super) fn optional<T>(
        &mut self,
        count: usize,
        mut get: impl FnMut(&mut Self) -> Result<T, BlockError>,
    ) -> Result<Vec<Option<T>>, BlockError> {
        self.before = 0;
        let marks = self.take(count.div_ceil(8))?;
        let is_there = |index: usize| marks[index / 8] & (1 << (index % 8)) != 0;
        (0..count).map(|index| is_there(index).then(|| get(self)).transpose()).collect()
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), BlockError> {
        if self.rest.is_empty() { Ok(()) } else { Err(BlockError::Malformed { column: "end" }) }
    }
}
