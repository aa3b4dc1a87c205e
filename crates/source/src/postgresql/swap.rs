//! Giving a restored database the live one's name.
//!
//! Two renames, since PostgreSQL has no statement for both: for a moment there is no database of the live name. Both
//! are closed to new sessions and emptied of old ones first, because a rename waits for nobody longer than five
//! seconds. If the second rename fails, the first is taken back.

use super::catalog::quote;
use super::connection::{Connection, shown_name};
use super::wire::{Client, WireError};
use super::{connect, failed, wire_failed};
use crate::SourceError;
use hikae_model::{Cx, ErrorCode, sabotage};

/// How often a rename is tried: somebody may have come in again in between.
const MAX_ATTEMPTS: u32 = 5;
/// Longest name in PostgreSQL, in bytes (`NAMEDATALEN` - 1).
const MAX_NAME: usize = 63;

/// What a swap did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swapped {
    /// The database that now is the live one.
    pub live: String,
    /// The name of the one that was, unless it was dropped. It takes no sessions until somebody allows them.
    pub kept: Option<String>,
}

impl Swapped {
    /// What to know of the one that was: how to enter it, and how to make it the live one again.
    pub fn notes(&self) -> Vec<String> {
        let Some(kept) = &self.kept else { return Vec::new() };
        let restored = format!("{}_restored", self.live);
        vec![
            format!("{} takes no sessions; to look into it: {};", shown_name(kept), allow(kept, true)),
            format!(
                "to go back, when nobody is in {}: {}; {}; {};",
                shown_name(&self.live),
                rename(&self.live, &restored),
                rename(kept, &self.live),
                allow(&self.live, true)
            ),
        ]
    }
}

/// Gives `restored` the name `live`, on the server at `maintenance`, which is a connection to a third database.
/// The old one is kept as `LIVE_before_TIME` if `keep_old`, else dropped once the new one is in place.
///
/// # Errors
/// [`SourceError`]: the live database still has its name and takes sessions again.
pub fn swap(
    maintenance: &Connection,
    live: &str,
    restored: &str,
    keep_old: bool,
    cx: &Cx,
) -> Result<Swapped, SourceError> {
    if [live, restored].contains(&maintenance.database.as_str()) {
        return Err(failed(
            ErrorCode::Usage,
            format!("database {} cannot be renamed from within", shown_name(&maintenance.database)),
            Some("connect to another database, as `postgres`".into()),
        ));
    }
    let mut client = connect(maintenance, cx)?;
    for name in [live, restored] {
        let there = client.value("SELECT count(*) FROM pg_database WHERE datname = $1", &[name]);
        if there.map_err(|error| wire_failed("cannot look for the databases", &error))?.as_deref()
            != Some("1")
        {
            return Err(failed(
                ErrorCode::SourceMissing,
                format!("there is no database {}", shown_name(name)),
                None,
            ));
        }
    }
    let old = name_of_old(live, &cx.now().strftime("%Y%m%dT%H%M%SZ").to_string());
    let swapped = exchange(&mut client, live, restored, &old);
    if let Err(error) = swapped {
        // Whichever of the renames was done is taken back; on what was not, this does nothing.
        let _ = client.execute(&rename(live, restored));
        let _ = client.execute(&rename(&old, live));
        for name in [live, restored].into_iter().filter(|_| !sabotage::on("swap-stays-closed")) {
            let _ = client.execute(&allow(name, true));
        }
        return Err(wire_failed(&format!("cannot swap {}; it is as it was", shown_name(live)), &error));
    }
    if !keep_old {
        let dropped = client.execute(&format!("DROP DATABASE {} WITH (FORCE)", quote(&old)));
        dropped.map_err(|error| {
            wire_failed(&format!("swapped, but cannot drop {}", shown_name(&old)), &error)
        })?;
    }
    Ok(Swapped { live: live.to_owned(), kept: keep_old.then_some(old) })
}

fn exchange(client: &mut Client, live: &str, restored: &str, old: &str) -> Result<(), WireError> {
    client.execute(&allow(live, false))?;
    client.execute(&allow(restored, false))?;
    rename_emptied(client, live, old)?;
    rename_emptied(client, restored, live).inspect_err(|_| {
        let _ = client.execute(&rename(old, live));
    })?;
    client.execute(&allow(live, true))
}

fn rename_emptied(client: &mut Client, from: &str, to: &str) -> Result<(), WireError> {
    let mut attempt = 1;
    loop {
        client.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
            &[from],
        )?;
        match client.execute(&rename(from, to)) {
            // 55006: somebody is in it still.
            Err(error) if error.sqlstate() == Some("55006") && attempt < MAX_ATTEMPTS => attempt += 1,
            renamed => return renamed,
        }
    }
}

pub(super) fn rename(from: &str, to: &str) -> String {
    format!("ALTER DATABASE {} RENAME TO {}", quote(from), quote(to))
}

fn allow(name: &str, allowed: bool) -> String {
    format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allowed}", quote(name))
}

/// `LIVE_before_TIME`, the live name cut so that PostgreSQL does not cut the time.
fn name_of_old(live: &str, time: &str) -> String {
    let tail = format!("_before_{time}");
    let mut cut = live.len().min(MAX_NAME - tail.len());
    while !live.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}{tail}", &live[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_name_always_shows_its_time() {
        assert_eq!(name_of_old("shop", "20261120T070000Z"), "shop_before_20261120T070000Z");
        let long = name_of_old(&"表".repeat(21), "20261120T070000Z");
        assert!(long.len() <= MAX_NAME && long.ends_with("表_before_20261120T070000Z"), "{long}");
    }
}
