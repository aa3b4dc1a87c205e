//! What there is in a database besides rows: the names of all objects of the users, by kind.
//!
//! The manifest holds how many there are and a hash of their names, and a restore is asked for the same again. Privileges,
//! owners and the like are names too, of what they say.

use super::wire::{Client, WireError};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Every kind that is looked for.
const KINDS: [&str; 36] = [
    "tables",
    "partitioned tables",
    "views",
    "materialised views",
    "sequences",
    "foreign tables",
    "indexes",
    "constraints",
    "triggers",
    "policies",
    "rules",
    "column defaults",
    "functions",
    "types",
    "schemas",
    "extensions",
    "operators",
    "collations",
    "statistics",
    "casts",
    "event triggers",
    "publications",
    "foreign servers",
    "comments",
    "columns",
    "parents",
    "row security",
    "text search",
    "operator classes",
    "languages",
    "foreign data wrappers",
    "user mappings",
    "published tables",
    "security labels",
    "owners",
    "privileges",
];

/// Names of all objects of the users, by kind, without the relations in `without` and what hangs on them.
///
/// What PostgreSQL makes by itself is left out, because another version may make it under another name: constraints and
/// triggers that a partition has from its parent, constructors and casts of range types, NOT NULL as a constraint (18).
pub(super) fn inventory(
    client: &mut Client,
    without: &str,
) -> Result<BTreeMap<String, Vec<String>>, WireError> {
    #[derive(Deserialize)]
    struct Object {
        kind: String,
        name: String,
    }
    let objects: Vec<Object> = client.rows(
        "WITH ns AS (SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
        member AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
        rel AS (SELECT c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) AS name
            FROM pg_class c JOIN ns n ON n.oid = c.relnamespace
            WHERE c.relpersistence <> 't' AND c.oid <> ALL ($1::oid[])
                AND (1259, c.oid) NOT IN (SELECT classid, objid FROM member))
        SELECT CASE relkind WHEN 'r' THEN 'tables' WHEN 'p' THEN 'partitioned tables' WHEN 'v' THEN 'views'
            WHEN 'm' THEN 'materialised views' WHEN 'S' THEN 'sequences' ELSE 'foreign tables' END AS kind, name
            FROM rel WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
        UNION ALL SELECT 'indexes', format('%s.%I', r.name, c.relname)
            FROM pg_index i JOIN rel r ON r.oid = i.indrelid JOIN pg_class c ON c.oid = i.indexrelid
            WHERE r.relkind IN ('r', 'p', 'm')
        UNION ALL SELECT 'constraints', format('%s.%I', r.name, k.conname)
            FROM pg_constraint k JOIN rel r ON r.oid = k.conrelid WHERE k.contype <> 'n' AND k.conparentid = 0
        UNION ALL SELECT 'constraints', format('%I.%I.%I', n.nspname, t.typname, k.conname)
            FROM pg_constraint k JOIN pg_type t ON t.oid = k.contypid JOIN ns n ON n.oid = t.typnamespace
            WHERE k.contype <> 'n' AND (1247, t.oid) NOT IN (SELECT classid, objid FROM member)
        UNION ALL SELECT 'triggers', format('%s.%I %s', r.name, t.tgname, t.tgenabled)
            FROM pg_trigger t JOIN rel r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal AND t.tgparentid = 0
        UNION ALL SELECT 'policies', format('%s.%I', r.name, p.polname) FROM pg_policy p JOIN rel r ON r.oid = p.polrelid
        UNION ALL SELECT 'rules', format('%s.%I', r.name, w.rulename)
            FROM pg_rewrite w JOIN rel r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
        UNION ALL SELECT 'column defaults', format('%s.%I', r.name, a.attname)
            FROM pg_attrdef f JOIN rel r ON r.oid = f.adrelid
            JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
        UNION ALL SELECT 'functions', format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
            FROM pg_proc p JOIN ns n ON n.oid = p.pronamespace
            WHERE (1255, p.oid) NOT IN (SELECT classid, objid FROM member) AND NOT EXISTS (SELECT FROM pg_depend d
                WHERE d.classid = 1255 AND d.objid = p.oid AND d.deptype = 'i')
        UNION ALL SELECT 'types', format('%I.%I', n.nspname, t.typname)
            FROM pg_type t JOIN ns n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
            WHERE (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND c.relkind = 'c'
                OR t.typtype = 'b' AND NOT EXISTS (SELECT FROM pg_type a WHERE a.typarray = t.oid))
                AND (1247, t.oid) NOT IN (SELECT classid, objid FROM member)
        UNION ALL SELECT 'schemas', format('%I', nspname) FROM ns WHERE (2615, oid) NOT IN (SELECT classid, objid FROM member)
        UNION ALL SELECT 'extensions', format('%I', extname) FROM pg_extension
        UNION ALL SELECT 'operators', format('%I.%s(%s,%s)', n.nspname, o.oprname, o.oprleft::regtype, o.oprright::regtype)
            FROM pg_operator o JOIN ns n ON n.oid = o.oprnamespace
            WHERE (2617, o.oid) NOT IN (SELECT classid, objid FROM member)
        UNION ALL SELECT 'collations', format('%I.%I', n.nspname, c.collname)
            FROM pg_collation c JOIN ns n ON n.oid = c.collnamespace
            WHERE (3456, c.oid) NOT IN (SELECT classid, objid FROM member)
        UNION ALL SELECT 'statistics', format('%I.%I', n.nspname, s.stxname)
            FROM pg_statistic_ext s JOIN ns n ON n.oid = s.stxnamespace WHERE s.stxrelid IN (SELECT oid FROM rel)
        UNION ALL SELECT 'casts', format('%s AS %s', castsource::regtype, casttarget::regtype)
            FROM pg_cast c WHERE oid >= 16384 AND (2605, oid) NOT IN (SELECT classid, objid FROM member)
                AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 2605 AND d.objid = c.oid AND d.deptype = 'i')
        UNION ALL SELECT 'event triggers', format('%I', evtname)
            FROM pg_event_trigger WHERE (3466, oid) NOT IN (SELECT classid, objid FROM member)
        UNION ALL SELECT 'publications', format('%I', pubname) FROM pg_publication
        UNION ALL SELECT 'foreign servers', format('%I', srvname)
            FROM pg_foreign_server WHERE (1417, oid) NOT IN (SELECT classid, objid FROM member)
        UNION ALL SELECT 'comments', pg_describe_object(classoid, objoid, objsubid) || ' ' || md5(description)
            FROM pg_description d WHERE objoid >= 16384 AND classoid IN (1259, 1255, 1247, 2615) AND $1 = '{}'
                AND (classoid::oid, objoid) NOT IN (SELECT classid, objid FROM member)
        UNION ALL SELECT 'columns', format('%s.%I %s %s%s', r.name, a.attname, format_type(a.atttypid, a.atttypmod),
                a.attidentity, a.attgenerated)
            FROM pg_attribute a JOIN rel r ON r.oid = a.attrelid
            WHERE a.attnum > 0 AND NOT a.attisdropped AND r.relkind IN ('r', 'p', 'm', 'f')
        UNION ALL SELECT 'parents', format('%s of %s', r.name, p.name)
            FROM pg_inherits i JOIN rel r ON r.oid = i.inhrelid JOIN rel p ON p.oid = i.inhparent
            WHERE r.relkind IN ('r', 'p', 'f')
        UNION ALL SELECT 'row security', format('%s %s', r.name,
                CASE WHEN c.relforcerowsecurity THEN 'forced' ELSE 'enabled' END)
            FROM rel r JOIN pg_class c USING (oid) WHERE c.relrowsecurity OR c.relforcerowsecurity
        UNION ALL SELECT 'text search', format('%s %I.%I', t.kind, n.nspname, t.name) FROM ns n JOIN
            (SELECT 'configuration' AS kind, 3602 AS class, oid, cfgname AS name, cfgnamespace AS nsp FROM pg_ts_config
            UNION ALL SELECT 'dictionary', 3600, oid, dictname, dictnamespace FROM pg_ts_dict
            UNION ALL SELECT 'parser', 3601, oid, prsname, prsnamespace FROM pg_ts_parser
            UNION ALL SELECT 'template', 3764, oid, tmplname, tmplnamespace FROM pg_ts_template) t ON t.nsp = n.oid
            WHERE (t.class, t.oid) NOT IN (SELECT classid, objid FROM member)
        UNION ALL SELECT 'operator classes', format('%I.%I %I', n.nspname, o.opcname, m.amname)
            FROM pg_opclass o JOIN ns n ON n.oid = o.opcnamespace JOIN pg_am m ON m.oid = o.opcmethod
            WHERE (2616, o.oid) NOT IN (SELECT classid, objid FROM member)
        UNION ALL SELECT 'languages', format('%I', lanname)
            FROM pg_language WHERE oid >= 16384 AND (2612, oid) NOT IN (SELECT classid, objid FROM member)
        UNION ALL SELECT 'foreign data wrappers', format('%I', fdwname)
            FROM pg_foreign_data_wrapper WHERE (2328, oid) NOT IN (SELECT classid, objid FROM member)
        UNION ALL SELECT 'user mappings', format('%I %I', srvname, usename) FROM pg_user_mappings
        UNION ALL SELECT 'published tables', format('%I %s', p.pubname, r.name)
            FROM pg_publication_rel t JOIN pg_publication p ON p.oid = t.prpubid JOIN rel r ON r.oid = t.prrelid
        UNION ALL SELECT 'security labels', format('%s %s %s', pg_describe_object(classoid, objoid, objsubid), provider, label)
            FROM pg_seclabel WHERE objoid >= 16384 AND $1 = '{}'
        UNION ALL SELECT 'owners', format('%s %I', name, pg_get_userbyid(c.relowner))
            FROM rel JOIN pg_class c USING (oid) WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
        UNION ALL SELECT 'owners', format('%I.%I(%s) %I', n.nspname, p.proname,
                pg_get_function_identity_arguments(p.oid), pg_get_userbyid(p.proowner))
            FROM pg_proc p JOIN ns n ON n.oid = p.pronamespace
            WHERE (1255, p.oid) NOT IN (SELECT classid, objid FROM member) AND NOT EXISTS (SELECT FROM pg_depend d
                WHERE d.classid = 1255 AND d.objid = p.oid AND d.deptype = 'i')
        UNION ALL SELECT 'owners', format('%I %I', s.nspname, pg_get_userbyid(s.nspowner))
            FROM ns JOIN pg_namespace s USING (oid) WHERE s.nspname <> 'public'
        UNION ALL SELECT 'privileges', format('%s %s %s %s', name,
                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                a.privilege_type, a.is_grantable)
            FROM rel JOIN pg_class c USING (oid), aclexplode(coalesce(c.relacl,
                acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", c.relowner))) a
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND a.privilege_type <> 'MAINTAIN'
        UNION ALL SELECT 'privileges', format('%I.%I(%s) %s %s', n.nspname, p.proname,
                pg_get_function_identity_arguments(p.oid),
                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, a.is_grantable)
            FROM pg_proc p JOIN ns n ON n.oid = p.pronamespace,
                aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
            WHERE (1255, p.oid) NOT IN (SELECT classid, objid FROM member) AND NOT EXISTS (SELECT FROM pg_depend d
                WHERE d.classid = 1255 AND d.objid = p.oid AND d.deptype = 'i')
        UNION ALL SELECT 'privileges', format('%s.%I %s %s %s', r.name, t.attname,
                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                a.privilege_type, a.is_grantable)
            FROM rel r JOIN pg_attribute t ON t.attrelid = r.oid, aclexplode(t.attacl) a
        UNION ALL SELECT 'privileges', format('schema %I %s %s %s', s.nspname,
                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                a.privilege_type, a.is_grantable)
            FROM ns JOIN pg_namespace s USING (oid), aclexplode(coalesce(s.nspacl, acldefault('n', s.nspowner))) a
            WHERE s.nspname <> 'public'
        UNION ALL SELECT 'privileges', format('default %I in %s for %s: %s %s %s', pg_get_userbyid(d.defaclrole),
                coalesce(quote_ident(n.nspname), 'all'), d.defaclobjtype,
                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                a.privilege_type, a.is_grantable)
            FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) a
            WHERE a.privilege_type <> 'MAINTAIN'",
        &[without],
    )?;
    // Kinds of which there are none count too: then there must be none after a restore.
    let mut inventory: BTreeMap<String, Vec<String>> =
        KINDS.iter().map(|kind| ((*kind).to_owned(), Vec::new())).collect();
    for Object { kind, name } in objects {
        inventory.entry(kind).or_default().push(name);
    }
    inventory.values_mut().for_each(|names| names.sort());
    Ok(inventory)
}
