//! What belongs to a running PostgreSQL server beside its base backups: where it can come back to, its log as it is
//! written, what it must be told, and whether it does as it was told.

mod parts;
pub mod receive;
pub mod restore_point;
pub mod setup;
pub mod watch;
pub mod window;

use hikae_source::postgresql::replication::{BadSlotName, SlotName};

/// The replication slot that is a source's own: `hikae_` and its name, as far as a slot can be called so.
///
/// # Errors
/// [`BadSlotName`] if nothing of it is left that fits.
pub fn slot_of(source: &str) -> Result<SlotName, BadSlotName> {
    let name: String = source
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' })
        .take(57)
        .collect();
    format!("hikae_{name}").parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_has_a_slot_that_a_server_can_make() {
        for (source, slot) in
            [("main", "hikae_main"), ("App-DB", "hikae_app_db"), ("控え", "hikae___"), ("", "hikae_")]
        {
            assert_eq!(slot_of(source).unwrap().to_string(), slot);
        }
        assert_eq!(slot_of(&"x".repeat(200)).unwrap().to_string().len(), 63);
    }
}
