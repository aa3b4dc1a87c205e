//! What can be lost at once, as a configuration says it: `domains = { site = "tokyo", account = "1234" }`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A kind of thing whose loss takes all that is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainKind {
    /// A computer.
    Machine,
    /// A disk, or what is mounted as one.
    Disk,
    /// A place that burns down at once.
    Site,
    /// An account at a provider, or whoever owns a server.
    Account,
    /// A key that opens what is kept, or that is lost with it.
    Key,
    /// Who can delete all of it.
    Administrator,
}

impl DomainKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Machine, Self::Disk, Self::Site, Self::Account, Self::Key, Self::Administrator];

    /// As a configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Disk => "disk",
            Self::Site => "site",
            Self::Account => "account",
            Self::Key => "key",
            Self::Administrator => "administrator",
        }
    }
}

impl fmt::Display for DomainKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// In which of them something is, by kind.
pub type Domains = BTreeMap<DomainKind, String>;
