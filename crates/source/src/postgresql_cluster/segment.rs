//! WAL segments: whether a file holds the part of the log that its name says.
//!
//! Every page says at which place of the log it stands. A file that PostgreSQL took to write a later segment into, or that
//! holds what such a file had before, shows by that (`access/xlog_internal.h`). After a switch to the next segment the rest is
//! zeroes, to the end.

use hikae_model::{Lsn, SegmentHeader, SegmentSize, SystemId, sabotage};

/// Where a page says at which place of the log it stands (`XLogPageHeaderData`).
const ADDRESS_AT: usize = 8;

/// A segment as it should be, looked at while it is read.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) system_id: SystemId,
    pub(super) segment_size: SegmentSize,
    pub(super) page_bytes: u32,
    /// Where it begins.
    pub(super) start: Lsn,
    /// Up to here it must hold the log; what follows was not yet written.
    pub(super) until: Lsn,
    /// From here on what was read is zeroes.
    pub(super) zeroes_from: Option<Lsn>,
}

impl Expected {
    /// Looks at pages that stand `at` bytes after the beginning. They come in order.
    ///
    /// # Errors
    /// In words, what is wrong.
    pub(super) fn look(&mut self, at: u64, pages: &[u8]) -> Result<(), String> {
        for (n, page) in pages.chunks(self.page_bytes as usize).enumerate() {
            let at = at + n as u64 * u64::from(self.page_bytes);
            let address = Lsn(self.start.0 + at);
            if address >= self.until || sabotage::on("segment-unchecked") {
                return Ok(());
            }
            // The segment within which the backup ends holds the log up to there.
            let may_be_switched = self.until.0 - self.start.0 >= self.segment_size.bytes() && at > 0;
            if may_be_switched && page.iter().all(|&byte| byte == 0) {
                self.zeroes_from.get_or_insert(address);
                continue;
            }
            let seen = if self.zeroes_from.is_some() { None } else { self.look_at_page(address, page) };
            seen.ok_or_else(|| format!("does not hold the log at {address}"))??;
        }
        Ok(())
    }

    /// `None` if it is not the page of that place.
    fn look_at_page(&self, address: Lsn, page: &[u8]) -> Option<Result<(), String>> {
        if address != self.start {
            let stands_at = u64::from_le_bytes(*page.get(ADDRESS_AT..)?.first_chunk()?);
            return (stands_at == address.0).then_some(Ok(()));
        }
        let header = SegmentHeader::parse(page).ok()?;
        if header.address != address || header.segment_size != self.segment_size {
            return None;
        }
        match header.system {
            found if found == self.system_id => Some(Ok(())),
            found => Some(Err(format!("is of another cluster, {found}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 8192;

    fn expected() -> Expected {
        let segment_size = SegmentSize::new(1 << 20).unwrap();
        let (start, until) = (Lsn(3 << 20), Lsn((3 << 20) + 2 * PAGE as u64 + 100));
        Expected {
            system_id: SystemId(77),
            segment_size,
            page_bytes: PAGE as u32,
            start,
            until,
            zeroes_from: None,
        }
    }

    fn segment() -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        for n in 0..3 {
            let at = n * PAGE;
            bytes[at + 8..at + 16].copy_from_slice(&((3 << 20) + at as u64).to_ne_bytes());
        }
        bytes[..4].copy_from_slice(&[0x10, 0xd1, 2, 0]);
        bytes[24..32].copy_from_slice(&77_u64.to_ne_bytes());
        bytes[32..36].copy_from_slice(&(1_u32 << 20).to_ne_bytes());
        bytes[36..40].copy_from_slice(&(PAGE as u32).to_ne_bytes());
        bytes
    }

    #[test]
    fn a_segment_is_whole_up_to_where_the_backup_ends() {
        assert_eq!(expected().look(0, &segment()), Ok(()));
        let mut short = segment();
        short[2 * PAGE + 8] ^= 1;
        assert_eq!(expected().look(0, &short), Err("does not hold the log at 0/304000".into()));
        assert!(expected().look(0, &segment()[..PAGE + 12]).is_err(), "a page is cut short");
    }

    #[test]
    fn after_a_switch_there_is_nothing_more_in_a_segment() {
        let until = Lsn(9 << 20);
        assert_eq!(Expected { until, ..expected() }.look(0, &segment()), Ok(()));
        let mut late = segment();
        late[500_000] = 1;
        assert!(Expected { until, ..expected() }.look(0, &late).is_err());
        let last = Lsn((4 << 20) - 1);
        assert!(Expected { until: last, ..expected() }.look(0, &segment()).is_err(), "the backup ends in it");
    }

    #[test]
    fn a_segment_of_another_cluster_or_size_shows() {
        let mut other = segment();
        other[24] = 78;
        assert_eq!(expected().look(0, &other), Err("is of another cluster, 78".into()));
        let mut other = segment();
        other[34] = 0;
        assert!(expected().look(0, &other).is_err());
    }
}
