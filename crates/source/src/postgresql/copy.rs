//! The COPY statements, out and in. The same columns in the same order, in the database's own encoding.

use super::catalog::{literal, quote};

/// A table as COPY names it.
#[derive(Clone, Copy)]
pub(super) struct CopyTable<'a> {
    pub(super) schema: &'a str,
    pub(super) name: &'a str,
    pub(super) columns: &'a [String],
    /// For a table of an extension: `WHERE ...`.
    pub(super) condition: Option<&'a str>,
    /// The database's encoding: the rows are neither converted on the way out nor on the way in.
    pub(super) encoding: &'a str,
}

/// Blocks of a table from the first to before the second, or to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) from: u64,
    pub(super) to: Option<u64>,
}

impl CopyTable<'_> {
    pub(super) fn quoted(&self) -> String {
        format!("{}.{}", quote(self.schema), quote(self.name))
    }

    fn options(&self, more: &str) -> String {
        format!("WITH (ENCODING {}{more})", literal(self.encoding))
    }

    /// A list of no columns is no SQL; without a list COPY takes all columns that are not generated, so none.
    pub(super) fn list(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(|column| quote(column)).collect();
        if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) }
    }

    /// Reads the table's own rows: never those of its children or partitions.
    pub(super) fn out(&self, blocks: Option<Blocks>) -> String {
        let condition = self.condition.filter(|condition| !condition.trim().is_empty());
        if condition.is_none() && blocks.is_none() {
            return format!("COPY {}{} TO STDOUT {}", self.quoted(), self.list(), self.options(""));
        }
        let columns: Vec<String> = self.columns.iter().map(|column| quote(column)).collect();
        let mut filter = condition.unwrap_or_default().to_owned();
        if let Some(Blocks { from, to }) = blocks {
            filter = format!("WHERE ctid >= '({from},0)'");
            if let Some(to) = to {
                filter.push_str(&format!(" AND ctid < '({to},0)'"));
            }
        }
        format!(
            "COPY (SELECT {} FROM ONLY {} {filter}) TO STDOUT {}",
            columns.join(", "),
            self.quoted(),
            self.options("")
        )
    }

    /// Writes rows. `freeze` asks that they be stored as long committed, for which the table must have been truncated in
    /// the same transaction.
    pub(super) fn fill(&self, freeze: bool) -> String {
        let more = if freeze { ", FREEZE" } else { "" };
        format!("COPY {}{} FROM STDIN {}", self.quoted(), self.list(), self.options(more))
    }
}

/// Cuts a table into parts of about `part_bytes`, which is `blocks` of its own and `toast_blocks` of long values long. The
/// last part is open: it ends where the table does.
///
/// Parts end at multiples of a power of two. So a table that grows keeps its parts as they are, and a part of today is
/// compared with the same rows of yesterday.
pub(super) fn plan_parts(blocks: u64, toast_blocks: u64, part_bytes: u64) -> Vec<Blocks> {
    const BLOCK_BYTES: u64 = 8192; // nearly always; another size makes larger parts
    let part_blocks = u128::from(part_bytes / BLOCK_BYTES) * u128::from(blocks.max(1))
        / u128::from((blocks + toast_blocks).max(1));
    let part_blocks = nearest_power_of_two(part_blocks.try_into().unwrap_or(u64::MAX));
    let n_parts = blocks.div_ceil(part_blocks).max(1);
    (0..n_parts)
        .map(|i| Blocks { from: i * part_blocks, to: (i + 1 < n_parts).then_some((i + 1) * part_blocks) })
        .collect()
}

/// Up from three quarters of the next one. Never 0.
fn nearest_power_of_two(n: u64) -> u64 {
    let below = 1 << n.max(1).ilog2().min(62);
    if n - n.min(below) >= below / 2 && n > below { below * 2 } else { below }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_table_once() {
        for (blocks, toast, part_bytes) in [
            (0, 0, 64 << 20),
            (8192, 0, 64 << 20),
            (8193, 0, 64 << 20),
            (1_000_003, 0, 1 << 30),
            (5, 0, 1),
            (3, 0, 0),
            (1000, 1_000_000, 64 << 20),
            (u64::from(u32::MAX), u64::from(u32::MAX), 64 << 30),
        ] {
            let parts = plan_parts(blocks, toast, part_bytes);
            assert_eq!(parts[0].from, 0);
            assert_eq!(parts[parts.len() - 1].to, None);
            for pair in parts.windows(2) {
                assert_eq!(pair[0].to, Some(pair[1].from), "{blocks} in parts of {part_bytes}");
                assert!(pair[0].from < pair[1].from);
            }
        }
    }

    #[test]
    fn a_table_that_grows_keeps_its_parts() {
        let mut before = plan_parts(1, 0, 64 << 20);
        for blocks in (1000..100_000).step_by(777) {
            let now = plan_parts(blocks, blocks / 50, 64 << 20);
            // The last of before was open and may by now have an end.
            for (part, same) in before.iter().zip(&now) {
                assert_eq!(part.from, same.from, "{blocks} blocks");
            }
            assert!(now.len() >= before.len());
            before = now;
        }
    }

    #[test]
    fn long_values_count_where_a_table_is_cut() {
        assert_eq!(plan_parts(8192, 0, 64 << 20).len(), 1);
        assert_eq!(plan_parts(8192, 7 * 8192, 64 << 20).len(), 8);
        assert_eq!(plan_parts(8, 8192 * 8, 64 << 20).len(), 8, "never less than a block");
        for (n, nearest) in [(0, 1), (1, 1), (2, 2), (3, 4), (5, 4), (6, 8), (8191, 8192), (8193, 8192)] {
            assert_eq!(nearest_power_of_two(n), nearest, "{n}");
        }
    }

    #[test]
    fn a_table_without_columns_has_no_list() {
        let table = CopyTable { schema: "s", name: "t", columns: &[], condition: None, encoding: "UTF8" };
        assert_eq!(table.out(None), "COPY \"s\".\"t\" TO STDOUT WITH (ENCODING 'UTF8')");
    }
}
