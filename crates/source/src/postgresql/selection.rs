//! Which tables' rows are read, and which relations are left out altogether.
//!
//! A selection chooses rows, not definitions: types, functions, extensions and empty tables cost next to nothing and
//! everything else may need them (`pg_dump -t` leaves them out, and such a dump does not load). So definitions
//! are always those of the whole database, but for what our role may not even look at.
//!
//! With a selected table come all its partitions and children, and every table that its foreign keys name.
//! This module decides and asks nobody.

use super::catalog::{Edge, Edges, Relation};
use hikae_model::sabotage;
use std::collections::{BTreeMap, BTreeSet};

/// What is read of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// Tables whose rows are read.
    pub(super) rows: BTreeSet<u32>,
    /// Relations that not even the definition is kept of: our role may not read them, or they need such a one.
    pub(super) left_out: BTreeSet<u32>,
    /// Relations that are needed and that our role may not read.
    pub(super) unreadable: BTreeSet<u32>,
}

/// Materialised views that show rows of foreign tables, of themselves or through what they select from. To fill them is
/// to ask another server.
pub(super) fn foreign_views(relations: &[Relation], edges: &Edges) -> BTreeSet<u32> {
    let of_kind = |kind: char| relations.iter().filter(move |r| r.kind == kind).map(|r| r.oid);
    let mut foreign: BTreeSet<u32> = of_kind('f').collect();
    grow(&mut foreign, |foreign, next| {
        // Who reads a table reads its partitions and children too.
        let needs = edges.views.iter().filter(|edge| foreign.contains(&edge.on)).map(|edge| edge.of);
        next.extend(needs.chain(targets(&edges.parents, foreign)));
    });
    of_kind('m').filter(|oid| foreign.contains(oid)).collect()
}

/// Decides for the whole database, or for the `chosen` relations and what they need.
pub(super) fn plan_selection(
    relations: &[Relation],
    edges: &Edges,
    chosen: Option<&BTreeSet<u32>>,
) -> Selection {
    let by_oid: BTreeMap<u32, &Relation> =
        relations.iter().map(|relation| (relation.oid, relation)).collect();
    let is_unreadable = |oid: &u32| {
        // A view's rows are not read, and pg_dump locks only tables.
        by_oid.get(oid).is_some_and(|r| matches!(r.kind, 'r' | 'p' | 'S') && (!r.readable || r.filtered))
    };
    let holds_rows = |oid: &u32| by_oid.get(oid).is_some_and(|r| r.has_rows());
    let Some(chosen) = chosen else {
        let all: BTreeSet<u32> = by_oid.keys().copied().collect();
        return Selection {
            rows: all.iter().copied().filter(holds_rows).collect(),
            left_out: BTreeSet::new(),
            unreadable: all.iter().copied().filter(is_unreadable).collect(),
        };
    };

    // Down to partitions and children, along foreign keys, and from a chosen view to what it shows.
    let mut wanted = chosen.clone();
    grow(&mut wanted, |wanted, next| {
        if !sabotage::on("partitions-forgotten") {
            next.extend(edges.parents.iter().filter(|edge| wanted.contains(&edge.on)).map(|edge| edge.of));
        }
        next.extend(targets(&edges.foreign_keys, wanted).chain(targets(&edges.views, wanted)));
    });
    // A partition cannot be made without its parent, whose rows are not wanted for that.
    let mut defined = wanted.clone();
    grow(&mut defined, |defined, next| next.extend(targets(&edges.parents, defined)));
    defined.extend(
        edges.owned.iter().filter(|edge| defined.contains(&edge.on)).map(|edge| edge.of).collect::<Vec<_>>(),
    );

    let mut left_out: BTreeSet<u32> =
        by_oid.keys().copied().filter(is_unreadable).filter(|oid| !defined.contains(oid)).collect();
    grow(&mut left_out, |left_out, next| {
        for needs in [&edges.foreign_keys, &edges.parents, &edges.views, &edges.owned] {
            next.extend(needs.iter().filter(|edge| left_out.contains(&edge.on)).map(|edge| edge.of));
        }
        next.retain(|oid| !defined.contains(oid));
    });
    Selection {
        rows: wanted.into_iter().filter(holds_rows).collect(),
        unreadable: defined.iter().copied().filter(is_unreadable).collect(),
        left_out,
    }
}

fn targets<'a>(edges: &'a [Edge], of: &'a BTreeSet<u32>) -> impl Iterator<Item = u32> + 'a {
    edges.iter().filter(|edge| of.contains(&edge.of)).map(|edge| edge.on)
}

/// Adds what `step` finds until it finds nothing new.
fn grow(set: &mut BTreeSet<u32>, step: impl Fn(&BTreeSet<u32>, &mut Vec<u32>)) {
    loop {
        let mut next = Vec::new();
        step(set, &mut next);
        let before = set.len();
        set.extend(next);
        if set.len() == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(oid: u32, kind: char, readable: bool) -> Relation {
        Relation {
            oid,
            schema: "public".into(),
            name: format!("r{oid}"),
            kind,
            unlogged: false,
            populated: true,
            readable,
            filtered: false,
            blocks: 0,
            toast_blocks: 0,
            columns: Vec::new(),
            condition: None,
        }
    }

    fn edge(of: u32, on: u32) -> Edge {
        Edge { of, on }
    }

    fn set(oids: &[u32]) -> BTreeSet<u32> {
        oids.iter().copied().collect()
    }

    /// 1 orders -> 2 customers -> 3 countries; 4 logs with partitions 5 and 6 (with 7 below); 8 secrets, not
    /// readable; 9 a view of 8; 10 owned by 8; 11 has a foreign key to 8.
    fn shop() -> (Vec<Relation>, Edges) {
        let mut relations: Vec<Relation> = [1, 2, 3, 5, 7, 11].map(|oid| relation(oid, 'r', true)).into();
        relations.extend([relation(4, 'p', true), relation(6, 'p', true), relation(8, 'r', false)]);
        relations.extend([relation(9, 'v', true), relation(10, 'S', false)]);
        let edges = Edges {
            foreign_keys: vec![edge(1, 2), edge(2, 3), edge(3, 1), edge(11, 8)],
            parents: vec![edge(5, 4), edge(6, 4), edge(7, 6)],
            views: vec![edge(9, 8)],
            owned: vec![edge(10, 8)],
        };
        (relations, edges)
    }

    #[test]
    fn a_partitioned_table_comes_with_all_its_partitions() {
        let (relations, edges) = shop();
        let selection = plan_selection(&relations, &edges, Some(&set(&[4])));
        assert_eq!(selection.rows, set(&[5, 7]));
        assert!(selection.unreadable.is_empty());
    }

    #[test]
    fn foreign_keys_are_followed_in_circles_too() {
        let (relations, edges) = shop();
        assert_eq!(plan_selection(&relations, &edges, Some(&set(&[1]))).rows, set(&[1, 2, 3]));
    }

    #[test]
    fn what_may_not_be_read_is_left_out_with_all_that_needs_it() {
        let (relations, edges) = shop();
        let selection = plan_selection(&relations, &edges, Some(&set(&[1])));
        assert_eq!(selection.left_out, set(&[8, 9, 10, 11]));
    }

    #[test]
    fn what_is_needed_and_may_not_be_read_is_named() {
        let (relations, edges) = shop();
        assert_eq!(plan_selection(&relations, &edges, Some(&set(&[11]))).unreadable, set(&[8, 10]));
        assert_eq!(plan_selection(&relations, &edges, None).unreadable, set(&[8, 10]));
    }
}
