//! Where the tablespaces of a recovery are restored.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where tablespaces are restored. What stands there goes again if the recovery fails.
pub(super) struct Spaces {
    pub(super) places: Vec<PathBuf>,
    /// Those that were there before, and empty.
    pub(super) found: Vec<bool>,
    kept: bool,
}

impl Spaces {
    /// Before anything is restored.
    pub(super) fn new(tablespaces: &BTreeMap<u32, PathBuf>) -> Self {
        let places: Vec<PathBuf> = tablespaces.values().cloned().collect();
        Self { found: places.iter().map(|place| place.exists()).collect(), places, kept: false }
    }

    /// Those of a recovery that was paused, which stay until they are no longer kept.
    pub(super) fn left(tablespaces: &BTreeMap<u32, PathBuf>, found: &[bool]) -> Self {
        Self { places: tablespaces.values().cloned().collect(), found: found.to_owned(), kept: true }
    }

    /// Whether they stay when this is dropped.
    pub(super) fn set_kept(&mut self, kept: bool) {
        self.kept = kept;
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        for (place, was_found) in self.places.iter().zip(&self.found).filter(|_| !self.kept) {
            // What cannot be removed takes room and does no harm: no data directory leads there.
            match was_found {
                false => drop(std::fs::remove_dir_all(place)),
                true => {
                    let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
                    entries.for_each(|entry| drop(std::fs::remove_dir_all(entry.path())));
                }
            }
            if let Some(above) = place.parent().filter(|_| !was_found) {
                drop(std::fs::remove_dir(above)); // if it is empty
            }
        }
    }
}
