//! Which stored rows make a table at the moment of a differential: those of a dump up to a stamp, then what each
//! differential brought, each row once.
//!
//! ```text
//! dump            |=========|- - -                       cut at `from` of the first
//! differential 1            |== settled ==|- open -
//! differential 2                          |== settled ==|== open ==|
//! ```
//!
//! Rows that come again are known by their stamp: what a differential settled, no later one has; what it left open, the next
//! one has anew. This module decides and reads nothing.

use super::manifest::{DifferentialManifest, DifferentialTable, TableName};
use hikae_model::sabotage;
use jiff::Timestamp;

/// The parts of one table, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// Rows of the dump: none, or those stamped before this.
    pub(super) dump_before: Option<String>,
    /// Files of differentials: number of the differential, and the file's name.
    pub(super) files: Vec<(usize, String)>,
}

/// Why a table cannot be brought forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The dump does not have it.
    NotInDump,
    /// Rows between two differentials, or between the dump and the first, are in none that is here.
    Gap {
        /// From when on nothing is here: the end of what came before. Nothing if the dump does not say.
        after: Option<Timestamp>,
        /// Until when.
        until: Timestamp,
    },
    /// It had other columns.
    OtherColumns,
}

/// What a dump says of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct InDump<'a> {
    /// No transaction that it does not show began before this.
    pub(super) horizon: Option<Timestamp>,
    /// The columns of its files.
    pub(super) columns: &'a [String],
}

/// Chains the differentials of a table after a dump, the oldest first.
pub(super) fn chain(
    table: &TableName,
    dump: Option<InDump<'_>>,
    differentials: &[&DifferentialManifest],
) -> Result<Chain, Broken> {
    let dump = dump.ok_or(Broken::NotInDump)?;
    let mut reached: Result<(Chain, &DifferentialTable), Broken> =
        Err(Broken::Gap { after: dump.horizon, until: Timestamp::MAX });
    let mut last_open: Option<(usize, String)> = None;
    for (n, manifest) in differentials.iter().enumerate() {
        let Some(here) = manifest.table(table) else { continue };
        if here.columns != dump.columns {
            return Err(Broken::OtherColumns);
        }
        let begins_anew = |cut: Option<String>| Ok((Chain { dump_before: cut, files: Vec::new() }, here));
        reached = match (reached, &here.from) {
            (_, None) => begins_anew(None),
            (Ok((chain, before)), Some(from)) if before.to.as_ref() == Some(from) => Ok((chain, here)),
            (_, Some(from)) if dump.horizon.is_some_and(|horizon| from.moment <= horizon) => {
                begins_anew(Some(from.value.clone()))
            }
            (Ok((_, before)), Some(from)) => {
                Err(Broken::Gap { after: before.to.as_ref().map(|to| to.moment), until: from.moment })
            }
            (Err(gap @ Broken::Gap { until, .. }), Some(_)) if until < Timestamp::MAX => Err(gap),
            (Err(_), Some(from)) => Err(Broken::Gap { after: dump.horizon, until: from.moment }),
        };
        if let Ok((chain, _)) = &mut reached {
            if sabotage::on("open-rows-kept-twice") {
                chain.files.extend(last_open.take());
            }
            chain.files.extend(here.settled_file.clone().map(|file| (n, file)));
        }
        last_open = here.open_file.clone().map(|file| (n, file));
    }
    let (mut chain, _) = reached?;
    chain.files.extend(last_open);
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::super::Tally;
    use super::super::manifest::Watermark;
    use super::super::settings::WatchedTable;
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn mark(second: i64) -> Watermark {
        Watermark { moment: at(second), value: format!("stamp {second}") }
    }

    fn differential(n: usize, from: Option<i64>, to: i64) -> DifferentialManifest {
        let table = DifferentialTable {
            table: name(),
            watched: WatchedTable { table: "t".into(), column: "at".into(), time_zone: None },
            columns: vec!["at".into()],
            from: from.map(mark),
            to: Some(mark(to)),
            settled_file: Some(format!("settled {n}")),
            settled: Tally::default(),
            open_file: Some(format!("open {n}")),
            open: Tally::default(),
            total: Tally::default(),
            compared: at(0),
            differs_since: None,
        };
        DifferentialManifest {
            kind: super::super::KIND.into(),
            version: 1,
            database: "d".into(),
            system_identifier: "1".into(),
            moment: at(to),
            base: "b".into(),
            tables: vec![table],
            trees: vec![name()],
            sequences: Vec::new(),
        }
    }

    fn name() -> TableName {
        TableName { schema: "public".into(), name: "t".into() }
    }

    /// Rows of the dump before which stamp, and files; or between which moments rows are missing.
    type Made<'a> = Result<(Option<&'a str>, &'a [&'a str]), (i64, i64)>;

    #[track_caller]
    fn check(horizon: i64, windows: &[(Option<i64>, i64)], expected: Made<'_>) {
        let differentials: Vec<_> =
            windows.iter().enumerate().map(|(n, &(from, to))| differential(n, from, to)).collect();
        let columns = ["at".to_owned()];
        let dump = InDump { horizon: Some(at(horizon)), columns: &columns };
        let made = chain(&name(), Some(dump), &differentials.iter().collect::<Vec<_>>());
        let expected = match expected {
            Ok((cut, files)) => {
                let number = |file: &str| file.rsplit(' ').next().unwrap().parse().unwrap();
                let files = files.iter().map(|file| (number(file), (*file).to_owned())).collect();
                Ok(Chain { dump_before: cut.map(str::to_owned), files })
            }
            Err((after, until)) => Err(Broken::Gap { after: Some(at(after)), until: at(until) }),
        };
        assert_eq!(made, expected, "{windows:?}");
    }

    #[test]
    fn each_row_comes_once() {
        check(10, &[(Some(10), 20)], Ok((Some("stamp 10"), &["settled 0", "open 0"])));
        check(
            10,
            &[(Some(5), 20), (Some(20), 30)],
            Ok((Some("stamp 5"), &["settled 0", "settled 1", "open 1"])),
        );
        // What begins anew takes the place of all before it.
        check(10, &[(Some(10), 20), (None, 30)], Ok((None, &["settled 1", "open 1"])));
        check(30, &[(Some(10), 20), (Some(25), 40)], Ok((Some("stamp 25"), &["settled 1", "open 1"])));
    }

    #[test]
    fn a_gap_is_named_and_never_passed_over() {
        check(10, &[(Some(11), 20)], Err((10, 11)));
        check(10, &[(Some(10), 20), (Some(30), 40)], Err((20, 30)));
        check(10, &[(Some(10), 20), (Some(30), 40), (Some(40), 50)], Err((20, 30)));
        check(10, &[(Some(10), 20), (Some(30), 40), (None, 50)], Ok((None, &["settled 2", "open 2"])));
    }

    #[test]
    fn without_the_table_in_the_dump_nothing_can_be_made() {
        assert_eq!(chain(&name(), None, &[]), Err(Broken::NotInDump));
    }
}
