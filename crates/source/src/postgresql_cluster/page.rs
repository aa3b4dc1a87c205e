//! Pages of relations: the checksum in each, computed as PostgreSQL does (`storage/checksum_impl.h`).
//!
//! ```text
//! page header: pd_lsn 8 | pd_checksum 2 | pd_flags 2 | pd_lower 2 | pd_upper 2 | ...
//! ```
//!
//! A FNV-1a hash in 32 lanes, which a compiler turns into vectors. The number of the block goes into it, so that a page
//! that was written to another block's place shows. This module knows one page, and no files.

use hikae_model::{Lsn, sabotage};

/// How many sums are computed beside each other.
const N_SUMS: usize = 32;
const BYTES_PER_ROUND: usize = 4 * N_SUMS;
const FNV_PRIME: u32 = 16_777_619;

const BASE_OFFSETS: [u32; N_SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a look at a page shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Its checksum is right, or it was never written.
    Good,
    /// It is not what was written. This is the place in the log of what it says was its last change.
    Bad(Lsn),
}

/// Checks one page, which stands at `block` of its relation. Its length is a multiple of 128 bytes.
pub(super) fn look(page: &[u8], block: u32) -> Seen {
    if u16_at(page, 14) == 0 {
        // Never written to: `pd_upper` is the end of free space, and 0 only on a page of zeroes.
        let is_new = page.iter().all(|&byte| byte == 0);
        return if is_new { Seen::Good } else { Seen::Bad(lsn(page)) };
    }
    let stored = u16_at(page, 8);
    let right = stored == checksum(page, block) || sabotage::on("page-checksum-unchecked");
    if right { Seen::Good } else { Seen::Bad(lsn(page)) }
}

/// The checksum that a page should have. The one that it has is left out of it.
pub(super) fn checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = BASE_OFFSETS;
    let mut rounds = page.chunks_exact(BYTES_PER_ROUND);
    if let Some(first) = rounds.next() {
        let mut without = [0; BYTES_PER_ROUND];
        without.copy_from_slice(first);
        without[8..10].fill(0);
        add(&mut sums, &without);
    }
    for round in rounds {
        add(&mut sums, round);
    }
    for _ in 0..2 {
        add(&mut sums, &[0; BYTES_PER_ROUND]);
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    // Never 0, which would mean that there is none.
    (folded % 65_535 + 1) as u16
}

fn add(sums: &mut [u32; N_SUMS], round: &[u8]) {
    for (sum, word) in sums.iter_mut().zip(round.chunks_exact(4)) {
        let mixed = *sum ^ u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

/// What a look at a page shows, and the place in the log of its last change.
pub(super) fn look_with_lsn(page: &[u8], block: u32) -> (Seen, Lsn) {
    (look(page, block), lsn(page))
}

/// The place in the log of a page's last change. Its two halves stand in the machine's order.
fn lsn(page: &[u8]) -> Lsn {
    let half =
        |at: usize| page.get(at..at + 4).and_then(|half| half.try_into().ok()).map_or(0, u32::from_ne_bytes);
    Lsn((u64::from(half(0)) << 32) | u64::from(half(4)))
}

fn u16_at(page: &[u8], at: usize) -> u16 {
    page.get(at..at + 2).and_then(|two| two.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Vec<u8> {
        let mut page: Vec<u8> = (0..8192_u32).map(|n| (n * 7 % 251) as u8).collect();
        let sum = checksum(&page, 5);
        page[8..10].copy_from_slice(&sum.to_ne_bytes());
        page
    }

    #[test]
    fn every_flipped_bit_of_a_page_shows() {
        let whole = page();
        assert_eq!(look(&whole, 5), Seen::Good);
        for bit in (0..8192 * 8).step_by(13) {
            let mut page = whole.clone();
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(look(&page, 5), Seen::Bad(_)), "bit {bit}");
        }
    }

    #[test]
    fn a_page_at_another_blocks_place_shows() {
        assert!(matches!(look(&page(), 6), Seen::Bad(_)));
        assert!(matches!(look(&page(), 5 + 131_072), Seen::Bad(_)));
    }

    #[test]
    fn a_page_that_was_never_written_is_good_and_one_that_only_looks_so_is_not() {
        let mut page = vec![0; 8192];
        assert_eq!(look(&page, 7), Seen::Good);
        page[8000] = 1;
        assert_eq!(look(&page, 7), Seen::Bad(Lsn(0)));
    }
}
