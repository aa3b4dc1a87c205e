//! Which role reads: that it can never be more than a reader, and the statements that make it one.
//!
//! Who can become a superuser is as mighty as one: membership in another role is a way there, and so it is never part
//! of what we offer. As mighty are the roles that reach the server's files and programs (PostgreSQL, "Predefined Roles").

use super::super::catalog::{literal, quote};
use super::super::wire::{Client, WireError};
use super::MAX_NAMES;
use hikae_model::sabotage;
use std::collections::BTreeSet;

/// The role that our session has.
#[derive(serde::Deserialize)]
pub(in crate::postgresql) struct Me {
    pub(in crate::postgresql) name: String,
    pub(in crate::postgresql) superuser: bool,
    /// It has what its memberships may without `SET ROLE`.
    pub(super) inherits: bool,
    /// A superuser, or a role as mighty, that it is or can become by `SET ROLE` or `RESET ROLE`.
    pub(in crate::postgresql) can_become: Option<String>,
    /// Memberships by which it can, unless it is a superuser itself.
    pub(super) ways: Vec<Membership>,
    pub(super) may_read_passwords: bool,
    pub(super) is_standby: bool,
    pub(super) n_large_objects: u64,
}

/// That our role is a member of another.
#[derive(serde::Deserialize)]
pub(super) struct Membership {
    role: String,
    grantor: String,
}

/// Who we are; nobody if the server does not know its own user.
pub(in crate::postgresql) fn me(client: &mut Client) -> Result<Option<Me>, WireError> {
    let is_mighty = "(s.rolsuper OR s.rolname IN
        ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program'))";
    let found: Vec<Me> = client.rows(
        // Of the session's user too: `ALTER ROLE ... SET role` puts another in its place, and RESET ROLE leads back.
        &format!("SELECT r.rolname AS name, r.rolsuper AS superuser, r.rolinherit AS inherits,
            (SELECT min(s.rolname::text) FROM pg_roles s WHERE {is_mighty}
                AND (pg_has_role(s.oid, 'MEMBER') OR pg_has_role(session_user, s.oid, 'MEMBER'))) AS can_become,
            (SELECT coalesce(json_agg(json_build_object(
                    'role', g.rolname, 'grantor', pg_get_userbyid(m.grantor)) ORDER BY g.rolname, m.grantor), '[]')
                FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
                WHERE m.member = r.oid AND EXISTS (SELECT FROM pg_roles s
                    WHERE {is_mighty} AND pg_has_role(g.oid, s.oid, 'MEMBER'))) AS ways,
            has_table_privilege('pg_authid', 'SELECT') AS may_read_passwords, pg_is_in_recovery() AS is_standby,
            (SELECT count(*) FROM pg_largeobject_metadata) AS n_large_objects
        FROM pg_roles r WHERE r.rolname = current_user"),
        &[],
    )?;
    Ok(found.into_iter().next().map(|mut me| {
        if me.superuser {
            me.ways.clear();
        } else if sabotage::on("superuser-membership-unseen") {
            me.can_become = None;
        }
        me
    }))
}

/// Large objects that our role may not read.
pub(super) fn hidden_large_objects(client: &mut Client) -> Result<Vec<u32>, WireError> {
    let may_read = if client.server_version_num() >= 180_000 {
        "has_largeobject_privilege(m.oid, 'SELECT')"
    } else {
        "pg_has_role(m.lomowner, 'USAGE') OR EXISTS (SELECT FROM aclexplode(m.lomacl) a
            WHERE a.privilege_type = 'SELECT' AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))"
    };
    let sql = format!(
        "SELECT m.oid::int8 FROM pg_largeobject_metadata m
        WHERE NOT ({may_read}) AND current_setting('lo_compat_privileges') = 'off' ORDER BY 1"
    );
    oids(client, &sql)
}

/// The first large objects, one more than a message lists if there are so many.
pub(super) fn first_large_objects(client: &mut Client) -> Result<Vec<u32>, WireError> {
    oids(client, &format!("SELECT oid::int8 FROM pg_largeobject_metadata ORDER BY 1 LIMIT {}", MAX_NAMES + 1))
}

fn oids(client: &mut Client, sql: &str) -> Result<Vec<u32>, WireError> {
    let rows = client.query(sql, &[])?;
    Ok(rows.into_iter().flatten().flatten().filter_map(|oid| oid.parse().ok()).collect())
}

/// Who owns large objects, and so makes them.
pub(super) fn large_object_owners(client: &mut Client) -> Result<Vec<String>, WireError> {
    let rows = client
        .query("SELECT DISTINCT pg_get_userbyid(lomowner) FROM pg_largeobject_metadata ORDER BY 1", &[])?;
    Ok(rows.into_iter().flatten().flatten().collect())
}

/// Whether any table has row security.
pub(super) fn has_row_security(client: &mut Client) -> Result<bool, WireError> {
    let answer =
        client.value("SELECT EXISTS (SELECT FROM pg_class WHERE relrowsecurity AND oid >= 16384)", &[])?;
    Ok(answer.as_deref() == Some("t"))
}

/// What a role lacks or has too much of, or what a new one needs.
pub(super) struct RoleAdvice<'a> {
    pub(super) role: &'a str,
    pub(super) database: &'a str,
    pub(super) major: u32,
    pub(super) create: bool,
    pub(super) inherits: bool,
    pub(super) revoke: &'a [Membership],
    pub(super) bypass_row_security: bool,
    pub(super) large_objects: &'a [u32],
    pub(super) large_object_owners: &'a [String],
    pub(super) schemas: BTreeSet<&'a str>,
}

impl RoleAdvice<'_> {
    /// Statements to paste. They set no password: psql's `\password` does, without showing it.
    pub(super) fn sql(&self) -> String {
        let role = quote(self.role);
        let mut lines = Vec::new();
        if self.create {
            lines.push(format!("CREATE ROLE {role} LOGIN; -- then \\password {role}"));
        }
        for membership in self.revoke {
            // Since 16 every grantor's grant is one of its own.
            let by = if self.major >= 16 {
                format!(" GRANTED BY {}", quote(&membership.grantor))
            } else {
                String::new()
            };
            lines.push(format!("REVOKE {} FROM {role}{by};", quote(&membership.role)));
        }
        lines.push(format!("GRANT CONNECT ON DATABASE {} TO {role};", quote(self.database)));
        if self.major >= 14 {
            let inherit = match (self.inherits, self.major) {
                (true, _) => "",
                (false, 16..) => " WITH INHERIT TRUE",
                (false, _) => {
                    lines.push(format!("ALTER ROLE {role} INHERIT; -- or the next would give it nothing"));
                    ""
                }
            };
            lines.push(format!("GRANT pg_read_all_data TO {role}{inherit};"));
        } else {
            for schema in &self.schemas {
                let schema = quote(schema);
                lines.push(format!("GRANT USAGE ON SCHEMA {schema} TO {role};"));
                lines.push(format!("GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role};"));
                lines.push(format!("GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role};"));
            }
        }
        if self.bypass_row_security {
            lines.push(format!("ALTER ROLE {role} BYPASSRLS; -- some tables have row security"));
        }
        self.push_large_objects(&role, &mut lines);
        lines.join("\n")
    }

    /// `pg_read_all_data` does not reach large objects before 19, and nothing reaches all of them at once. Their
    /// owners could lend their rights, but those write too, and an owner may be a superuser.
    fn push_large_objects(&self, role: &str, lines: &mut Vec<String>) {
        if sabotage::on("large-object-owner-lent") {
            let owners = self.large_object_owners.iter();
            lines.extend(owners.map(|owner| format!("GRANT {} TO {role};", quote(owner))));
            return;
        }
        if self.large_objects.len() <= MAX_NAMES {
            for oid in self.large_objects {
                lines.push(format!("GRANT SELECT ON LARGE OBJECT {oid} TO {role};"));
            }
        } else {
            let body = format!(
                "DECLARE object oid; BEGIN FOR object IN SELECT oid FROM pg_largeobject_metadata LOOP \
                 EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO %I', object, {}); END LOOP; END",
                literal(self.role)
            );
            lines.push(format!("DO {}; -- each large object", literal(&body).trim_start()));
        }
        if self.large_objects.is_empty() {
            return;
        }
        if self.major >= 18 {
            for owner in self.large_object_owners {
                lines.push(format!(
                    "ALTER DEFAULT PRIVILEGES FOR ROLE {} GRANT SELECT ON LARGE OBJECTS TO {role};",
                    quote(owner)
                ));
            }
        } else {
            lines.push("-- large objects that are made later need the same, and a backup names them".into());
        }
    }
}

/// The statements that make a role which may back up `database` and nothing else, ready to paste.
pub fn least_privilege_role(role: &str, database: &str, server_major: u32) -> String {
    RoleAdvice {
        role,
        database,
        major: server_major,
        create: true,
        inherits: true,
        revoke: &[],
        bypass_row_security: false,
        large_objects: &[],
        large_object_owners: &[],
        schemas: BTreeSet::from(["public"]),
    }
    .sql()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_that_we_offer_may_only_read() {
        let sql = least_privilege_role("it\"s", "my db", 17);
        assert_eq!(
            sql,
            "CREATE ROLE \"it\"\"s\" LOGIN; -- then \\password \"it\"\"s\"\n\
             GRANT CONNECT ON DATABASE \"my db\" TO \"it\"\"s\";\nGRANT pg_read_all_data TO \"it\"\"s\";"
        );
        assert!(
            least_privilege_role("hikae", "db", 13)
                .contains("GRANT SELECT ON ALL TABLES IN SCHEMA \"public\"")
        );
    }
}
