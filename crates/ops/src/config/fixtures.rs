//! Fixtures: what a source of files must keep and what it must leave out, as its author meant it. They are part of the
//! configuration, so that a change of `include` or `exclude` is tested before it meets real data.
//!
//! The rules are asked, and nothing else: the paths need not be there, so a configuration can be tested anywhere.

use hikae_model::sabotage;
use hikae_source::files::FilesSource;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `fixtures` of `[source.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fixtures {
    /// Paths that a backup must keep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<PathBuf>,
    /// Paths that it must leave out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaves_out: Vec<PathBuf>,
}

impl Fixtures {
    /// True if there is nothing to test.
    pub fn is_empty(&self) -> bool {
        self.holds.is_empty() && self.leaves_out.is_empty()
    }

    /// What the rules do otherwise than was meant, a sentence each.
    pub fn broken_by(&self, source: &FilesSource) -> Vec<String> {
        if sabotage::on("fixtures-unheeded") {
            return Vec::new();
        }
        let lost = self.holds.iter().filter_map(|path| {
            Some(format!("{} would be left out: {}", path.display(), source.why_left_out(path)?))
        });
        let kept = self.leaves_out.iter().filter(|path| source.why_left_out(path).is_none());
        lost.chain(kept.map(|path| format!("{} would be kept", path.display()))).collect()
    }
}
