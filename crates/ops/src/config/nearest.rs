//! The name that was most likely meant: the known one that is fewest edits away.

/// The known name nearest to `name`, if it is near enough to be a misspelling of it.
pub fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let name = name.to_lowercase();
    let distances = known.into_iter().map(|known| (distance(&name, &known.to_lowercase()), known));
    let (edits, known) = distances.min_by_key(|(edits, _)| *edits)?;
    let is_near = edits <= 1 + name.chars().count().min(known.chars().count()) / 4;
    is_near.then_some(known)
}

/// Edits (insert, remove, replace, swap neighbours) that make one word of the other: the optimal string
/// alignment distance.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_the_one_that_was_meant() {
        let known = ["include", "exclude", "exclude_file", "one_file_system"];
        for (name, meant) in [
            ("incude", Some("include")),
            ("exlcude", Some("exclude")),
            ("Include", Some("include")),
            ("exclude-file", Some("exclude_file")),
            ("one_filesystem", Some("one_file_system")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(name, known), meant, "{name}");
        }
    }
}
