//! The manifest as far as it is known before any row was read.

use super::held::{Shared, Tools};
use crate::postgresql::catalog::{self, Relation};
use crate::postgresql::connection::shown_name;
use crate::postgresql::inventory::inventory;
use crate::postgresql::manifest::{Manifest, NotCovered, ROWS_NOT_SELECTED, ViewRecord, count_objects};
use crate::postgresql::preflight::Look;
use crate::postgresql::settings::PostgresqlSettings;
use crate::postgresql::wire::{Client, WireError};

pub(super) fn draft_manifest(
    session: &mut Client,
    look: &Look,
    settings: &PostgresqlSettings,
    (shared, tools): (&Shared, &Tools),
    moment: jiff::Timestamp,
) -> Result<Manifest, WireError> {
    let is_left_out = |relation: &&Relation| look.selection.left_out.contains(&relation.oid);
    let sequences: Vec<(String, String)> = look
        .relations
        .iter()
        .filter(|relation| relation.kind == 'S' && !is_left_out(relation))
        .map(|relation| (relation.schema.clone(), relation.name.clone()))
        .collect();
    let sequences = catalog::sequences(session, &sequences)?;
    let materialised_views = look
        .relations
        .iter()
        .filter(|relation| relation.kind == 'm' && relation.populated && !is_left_out(relation))
        .filter(|relation| !look.foreign_views.contains(&relation.oid))
        .map(|relation| ViewRecord { schema: relation.schema.clone(), name: relation.name.clone() })
        .collect();
    let objects = inventory(session, &catalog::oid_array(&look.selection.left_out))?;
    let mut not_covered = Vec::new();
    for relation in &look.relations {
        let why = match relation.kind {
            _ if is_left_out(&relation) => "not selected, and the role may not read it",
            'r' if !look.selection.rows.contains(&relation.oid) => ROWS_NOT_SELECTED,
            'r' if look.is_standby && relation.unlogged => {
                "rows of an unlogged table, which a standby has not"
            }
            'm' if look.foreign_views.contains(&relation.oid) => {
                "rows of a materialised view, which come from another server; refresh it after a restore"
            }
            'f' => "rows of a foreign table, which are on another server",
            _ => continue,
        };
        not_covered.push(NotCovered { what: relation.shown(), why: why.into() });
    }
    if look.has_large_objects && settings.is_selection() {
        not_covered.push(NotCovered { what: "large objects".into(), why: "not selected".into() });
    }
    for name in &look.database.subscriptions {
        let why = "a subscription, never restored, so that a copy pulls from nobody".to_owned();
        not_covered.push(NotCovered { what: shown_name(name), why });
    }
    if !look.may_read_passwords {
        let why = "the role may not read pg_authid".to_owned();
        not_covered.push(NotCovered { what: "passwords of roles".into(), why });
    }
    let database = &look.database;
    Ok(Manifest {
        kind: "postgresql".into(),
        version: Manifest::VERSION,
        database: database.name.clone(),
        server_version: database.server_version.clone(),
        server_version_num: database.server_version_num,
        pg_dump: tools.programs.version.clone(),
        moment,
        horizon: None,
        selection: settings.is_selection(),
        role_passwords: look.may_read_passwords,
        tables: Vec::new(),
        sequences: sequences.into_iter().map(Into::into).collect(),
        materialised_views,
        large_objects: None,
        objects: count_objects(&objects, shared.key),
        extensions: database.extensions.iter().map(|e| (e.name.clone(), e.version.clone())).collect(),
        roles: database.roles.iter().map(|role| role.name.clone()).collect(),
        not_covered,
        rolled_forward: Vec::new(),
    })
}
