//! The values of a workload: printable, so that a dump can be read, and never twice the same, so
//! that a check can tell one write's value from another's.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// Fields of a YCSB row.
pub const FIELDS: usize = 10;

/// Makes values.
#[derive(Debug)]
pub struct ValueMaker {
    rng: StdRng,
    value_bytes: usize,
}

impl ValueMaker {
    /// Makes values of `value_bytes` bytes.
    #[must_use]
    pub fn new(value_bytes: usize, seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            value_bytes,
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        self.rng.fill_bytes(bytes);
        for byte in bytes {
            *byte = b' ' + *byte % 95;
        }
    }

    /// A new value.
    pub fn value(&mut self) -> Bytes {
        let mut value = vec![0; self.value_bytes];
        self.fill(&mut value);
        value.into()
    }

    /// `row` with one field, drawn uniformly, written anew. A row that has not the right size is
    /// replaced.
    pub fn with_new_field(&mut self, row: &[u8]) -> Bytes {
        if row.len() != self.value_bytes {
            return self.value();
        }
        let mut row = Row(row.to_vec());
        let field = self.rng.random_range(0..FIELDS);
        let range = row.field(field);
        self.fill(&mut row.0[range]);
        row.0.into()
    }
}

/// A row's value: its fields one behind the other, the last one with what does not divide.
#[derive(Clone, Debug)]
pub struct Row(pub Vec<u8>);

impl Row {
    /// Where a field lies.
    #[must_use]
    pub fn field(&self, field: usize) -> std::ops::Range<usize> {
        let bytes = self.0.len() / FIELDS;
        let end = if field + 1 == FIELDS {
            self.0.len()
        } else {
            (field + 1) * bytes
        };
        field * bytes..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_are_printable_and_differ() {
        let mut maker = ValueMaker::new(128, 1);
        let (a, b) = (maker.value(), maker.value());
        assert_eq!(a.len(), 128);
        assert!(a.iter().all(|byte| (b' '..=b'~').contains(byte)));
        assert_ne!(a, b);
    }

    #[test]
    fn a_new_field_leaves_the_others() {
        let mut maker = ValueMaker::new(1003, 1);
        let row = maker.value();
        for _ in 0..30 {
            let changed = maker.with_new_field(&row);
            let differing: Vec<usize> = (0..FIELDS)
                .filter(|field| {
                    let range = Row(row.to_vec()).field(*field);
                    row[range.clone()] != changed[range]
                })
                .collect();
            assert_eq!(differing.len(), 1);
        }
    }

    #[test]
    fn the_fields_cover_the_row() {
        let row = Row(vec![0; 1003]);
        assert_eq!(row.field(0), 0..100);
        assert_eq!(row.field(9), 900..1003);
    }

    #[test]
    fn a_row_of_another_size_is_replaced() {
        assert_eq!(ValueMaker::new(50, 1).with_new_field(b"short").len(), 50);
    }
}
