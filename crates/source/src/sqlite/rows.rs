//! The rows of a table as one count and one hash, whatever order they are read in.
//!
//! Each row is written in one canonical form and hashed with keyed BLAKE3; the hashes are added as 256-bit
//! little-endian numbers, modulo 2^256. Two equal rows count twice, unlike with XOR.

use rusqlite::types::ValueRef;
use rusqlite::{Result, Row};

/// Count and sum of the hashes of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RowSum {
    pub(super) n_rows: u64,
    limbs: [u64; 4],
}

impl RowSum {
    pub(super) fn add(&mut self, hash: &[u8; 32]) {
        self.n_rows += 1;
        let mut carry = false;
        let (words, _) = hash.as_chunks::<8>();
        for (limb, word) in self.limbs.iter_mut().zip(words) {
            let (sum, over) = limb.overflowing_add(u64::from_le_bytes(*word));
            let (sum, over_carry) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = over || over_carry;
        }
    }

    /// The sum in hex, least significant byte first.
    pub(super) fn hex(&self) -> String {
        self.limbs.iter().flat_map(|limb| limb.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Writes the first `n_columns` values of a row in their canonical form: a tag for the type, then 8 bytes
/// for a number, or length and bytes for text and blobs. No two rows of one table are written alike.
pub(super) fn encode(row: &Row<'_>, n_columns: usize, into: &mut Vec<u8>) -> Result<()> {
    into.clear();
    for column in 0..n_columns {
        match row.get_ref(column)? {
            ValueRef::Null => into.push(0),
            ValueRef::Integer(number) => {
                into.push(1);
                into.extend_from_slice(&number.to_le_bytes());
            }
            ValueRef::Real(number) => {
                into.push(2);
                into.extend_from_slice(&number.to_bits().to_le_bytes());
            }
            ValueRef::Text(bytes) => with_length(3, bytes, into),
            ValueRef::Blob(bytes) => with_length(4, bytes, into),
        }
    }
    Ok(())
}

fn with_length(tag: u8, bytes: &[u8], into: &mut Vec<u8>) {
    into.push(tag);
    into.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    into.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum_of(hashes: &[[u8; 32]]) -> RowSum {
        let mut sum = RowSum::default();
        hashes.iter().for_each(|hash| sum.add(hash));
        sum
    }

    #[test]
    fn the_order_of_rows_does_not_count_but_their_number_does() {
        let (a, b) = ([1; 32], [255; 32]);
        assert_eq!(sum_of(&[a, b, b]), sum_of(&[b, a, b]));
        assert_ne!(sum_of(&[a, b, b]).hex(), sum_of(&[a]).hex());
        assert_ne!(sum_of(&[a, a]).hex(), sum_of(&[]).hex());
    }

    #[test]
    fn sums_carry_over_all_256_bits() {
        let mut one = [0; 32];
        one[0] = 1;
        // 2^256 - 1 and 1 more is 0.
        assert_eq!(sum_of(&[[255; 32], one]).hex(), "0".repeat(64));
        let mut low = [0; 32];
        low[..8].fill(255);
        let mut expected = [0; 32];
        expected[8] = 1;
        assert_eq!(sum_of(&[low, one]).limbs, sum_of(&[expected]).limbs);
    }

    #[test]
    fn values_that_look_alike_are_written_apart() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let mut written = std::collections::BTreeSet::new();
        let rows = [
            "NULL, NULL",
            "'', NULL",
            "NULL, ''",
            "x'', NULL",
            "0, 1",
            "0.0, 1",
            "'0', 1",
            "1, 0",
            "'ab', 'c'",
            "'a', 'bc'",
            "x'61', 'bc'",
        ];
        for values in rows {
            let mut bytes = Vec::new();
            connection.query_row(&format!("SELECT {values}"), [], |row| encode(row, 2, &mut bytes)).unwrap();
            assert!(written.insert(bytes), "{values}");
        }
    }
}
