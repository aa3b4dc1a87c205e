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
    fn list(&self) -> String {
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

/// Cuts a table of `blocks` blocks into parts of about `part_blocks`. The last part is open: it ends where the table does.
pub(super) fn plan_parts(blocks: u64, part_blocks: u64) -> Vec<Blocks> {
    let n_parts = (blocks / part_blocks.max(1)).max(1);
    let start = |i: u64| (u128::from(blocks) * u128::from(i) / u128::from(n_parts)) as u64;
    (0..n_parts).map(|i| Blocks { from: start(i), to: (i + 1 < n_parts).then(|| start(i + 1)) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_table_once() {
        for (blocks, part) in
            [(0, 10), (9, 10), (10, 10), (19, 10), (20, 10), (1_000_003, 131_072), (5, 1), (3, 0)]
        {
            let parts = plan_parts(blocks, part);
            assert_eq!(parts[0].from, 0);
            assert_eq!(parts[parts.len() - 1].to, None);
            for pair in parts.windows(2) {
                assert_eq!(pair[0].to, Some(pair[1].from), "{blocks} in parts of {part}");
                assert!(pair[0].from < pair[1].from);
            }
        }
    }

    #[test]
    fn a_table_without_columns_has_no_list() {
        let table = CopyTable { schema: "s", name: "t", columns: &[], condition: None, encoding: "UTF8" };
        assert_eq!(table.out(None), "COPY \"s\".\"t\" TO STDOUT WITH (ENCODING 'UTF8')");
    }
}
