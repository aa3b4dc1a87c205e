//! Rows, counted and hashed regardless of their order.
//!
//! Each row of a COPY is hashed with the repository's hash key; the hashes are added up modulo 2^256. So a table
//! may be read in parts, in any order, and restored in another, and the sum is the same for the same rows and,
//! for who has not the key, for no others.

use hikae_model::HashKey;

/// How many rows, and the sum of their keyed hashes.
#[derive(Clone)]
pub(super) struct RowSum {
    key: [u8; 32],
    rows: u64,
    words: [u64; 4],
}

impl RowSum {
    /// No rows.
    pub(super) fn new(key: HashKey) -> Self {
        Self { key: key.0, rows: 0, words: [0; 4] }
    }

    /// Adds a row that stands whole in memory.
    pub(super) fn add(&mut self, row: &[u8]) {
        self.add_hash(&blake3::keyed_hash(&self.key, row));
    }

    /// For a row that comes in pieces; its hash then goes to [`add_hash`](Self::add_hash).
    pub(super) fn hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.key)
    }

    /// Adds a row by its hash.
    pub(super) fn add_hash(&mut self, hash: &blake3::Hash) {
        let (words, _) = hash.as_bytes().as_chunks::<8>();
        self.rows += 1;
        self.add_words([words[0], words[1], words[2], words[3]].map(u64::from_le_bytes));
    }

    /// Adds all rows of `other`.
    pub(super) fn add_sum(&mut self, other: &Self) {
        self.rows += other.rows;
        self.add_words(other.words);
    }

    fn add_words(&mut self, words: [u64; 4]) {
        let mut carry = false;
        for (sum, word) in self.words.iter_mut().zip(words) {
            let (first, over) = sum.overflowing_add(word);
            let (second, over_again) = first.overflowing_add(u64::from(carry));
            *sum = second;
            carry = over || over_again;
        }
    }

    /// How many rows were added.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// The sum as 64 hex digits, least significant byte first.
    pub(super) fn hex(&self) -> String {
        self.words.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(rows: &[&str]) -> RowSum {
        let mut sum = RowSum::new(HashKey([7; 32]));
        rows.iter().for_each(|row| sum.add(row.as_bytes()));
        sum
    }

    #[test]
    fn order_and_parts_do_not_matter() {
        let whole = sum(&["a", "b", "c", "c"]);
        let mut parts = sum(&["c", "b"]);
        parts.add_sum(&sum(&["c", "a"]));
        assert_eq!((whole.rows(), whole.hex()), (parts.rows(), parts.hex()));
    }

    #[test]
    fn every_row_matters_as_often_as_it_is_there() {
        let whole = sum(&["a", "b", "c", "c"]);
        for other in
            [&["a", "b", "c"][..], &["a", "b", "b", "c"], &["a", "b", "c", "d"], &["ab", "", "c", "c"]]
        {
            assert_ne!(whole.hex(), sum(other).hex(), "{other:?}");
        }
    }

    #[test]
    fn a_row_in_pieces_is_the_same_row() {
        let mut pieces = RowSum::new(HashKey([7; 32]));
        let mut hasher = pieces.hasher();
        hasher.update(b"ab").update(b"c");
        pieces.add_hash(&hasher.finalize());
        assert_eq!(pieces.hex(), sum(&["abc"]).hex());
    }

    #[test]
    fn the_sum_carries_between_words() {
        let mut sum = RowSum { key: [0; 32], rows: 0, words: [u64::MAX, u64::MAX, 0, 0] };
        sum.add_words([1, 0, 0, 0]);
        assert_eq!(sum.words, [0, 0, 1, 0]);
    }
}
