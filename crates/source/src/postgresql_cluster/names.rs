//! Names in a data directory: which files are pages of relations, and what no base backup keeps.
//!
//! The rules are those of PostgreSQL's own base backup (`backup/basebackup.c`, `common/relpath.c`): what is left out is
//! made anew by every server that starts, or would harm one that starts from a copy.

/// A file with pages of a relation, as `16384`, `16384_fsm`, `16384_vm.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RelationFile {
    /// The number in its name.
    pub(super) number: u32,
    /// What of the relation it holds.
    pub(super) fork: Fork,
    /// Which file of it: a relation is cut into segments of 1 GiB.
    pub(super) segment: u32,
}

/// What of a relation a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fork {
    /// The rows, or the entries of an index.
    Main,
    /// Where there is free space.
    FreeSpace,
    /// Which pages everybody sees all of.
    Visibility,
    /// What an unlogged relation begins from after a crash.
    Init,
}

impl RelationFile {
    /// The file of this name, if it is one.
    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?;
        let (name, segment) = match name.split_once('.') {
            Some((name, segment)) => (name, number(segment).filter(|&segment| segment > 0)?),
            None => (name, 0),
        };
        let (name, fork) = match name.split_once('_') {
            None => (name, Fork::Main),
            Some((name, "fsm")) => (name, Fork::FreeSpace),
            Some((name, "vm")) => (name, Fork::Visibility),
            Some((name, "init")) => (name, Fork::Init),
            Some(_) => return None,
        };
        Some(Self { number: number(name).filter(|&number| number > 0)?, fork, segment })
    }
}

/// Decimal, without a sign and without a zero in front.
fn number(text: &str) -> Option<u32> {
    let is_number =
        text.bytes().all(|byte| byte.is_ascii_digit()) && !(text.len() > 1 && text.starts_with('0'));
    is_number.then(|| text.parse().ok()).flatten()
}

/// Whether files in a directory beneath the data directory may be those of relations.
pub(super) fn holds_relations(directory: &[u8]) -> bool {
    directory == b"global"
        || directory.strip_prefix(b"base/").is_some_and(|database| !database.contains(&b'/'))
        || directory.strip_prefix(b"pg_tblspc/").is_some_and(|space| n_slashes(space) == 2)
}

/// The same beneath a tablespace, where the directory of a version has one for each database.
pub(super) fn holds_relations_of_space(directory: &[u8]) -> bool {
    n_slashes(directory) == 1
}

fn n_slashes(path: &[u8]) -> usize {
    path.iter().filter(|&&byte| byte == b'/').count()
}

/// A relation of one session, as `t3_16384`: it ends with the session.
pub(super) fn is_temporary_relation(name: &[u8]) -> bool {
    let Some((session, relation)) =
        std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix('t')?.split_once('_'))
    else {
        return false;
    };
    let is_digits = !session.is_empty() && session.bytes().all(|byte| byte.is_ascii_digit());
    is_digits && RelationFile::parse(relation.as_bytes()).is_some()
}

/// A directory whose content no copy has any use for. The directory itself must be there.
pub(super) fn is_emptied(path: &[u8]) -> bool {
    const EMPTIED: [&str; 9] = [
        "pg_dynshmem",
        "pg_notify",
        // A slot of a copy would keep the log for somebody who asks another server for it.
        "pg_replslot",
        "pg_serial",
        "pg_snapshots",
        "pg_stat_tmp",
        "pg_subtrans",
        // What of the log belongs to the backup comes after its end.
        "pg_wal/archive_status",
        "pg_wal/summaries",
    ];
    EMPTIED.iter().any(|emptied| emptied.as_bytes() == path)
}

/// What is left out wherever it stands.
pub(super) fn is_left_out_anywhere(name: &[u8]) -> bool {
    name.starts_with(b"pgsql_tmp") || name.starts_with(b"pg_internal.init") || is_temporary_relation(name)
}

/// What is left out at the top of the data directory.
pub(super) fn is_left_out_at_top(name: &[u8]) -> bool {
    const LEFT_OUT: [&str; 11] = [
        // They are of another backup, or come at the end of this one.
        "backup_label",
        "backup_label.old",
        "tablespace_map",
        "tablespace_map.old",
        "backup_manifest",
        "postmaster.pid",
        "postmaster.opts",
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        // They say what the server that was read was about to do. A copy must not follow its primary by itself.
        "standby.signal",
        "recovery.signal",
    ];
    LEFT_OUT.iter().any(|left_out| left_out.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relation_files_are_known_by_their_names() {
        for (name, number, fork, segment) in [
            ("16384", 16384, Fork::Main, 0),
            ("16384.131", 16384, Fork::Main, 131),
            ("1259_fsm", 1259, Fork::FreeSpace, 0),
            ("1259_vm.2", 1259, Fork::Visibility, 2),
            ("4294967295_init", u32::MAX, Fork::Init, 0),
        ] {
            assert_eq!(
                RelationFile::parse(name.as_bytes()),
                Some(RelationFile { number, fork, segment }),
                "{name}"
            );
        }
        for name in [
            "",
            "0",
            "pg_filenode.map",
            "PG_VERSION",
            "16384_x",
            "16384.",
            "16384.0",
            "16384.01",
            "016384",
            "16384_fsm_vm",
            "16384.1.2",
            "+16384",
            "4294967296",
            "16384~",
            "t3_16384",
        ] {
            assert_eq!(RelationFile::parse(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn what_ends_with_a_session_is_left_out() {
        for name in [
            "t3_16384",
            "t12_16384_fsm",
            "t3_16384.1",
            "pgsql_tmp",
            "pgsql_tmp123.4",
            "pg_internal.init",
            "pg_internal.init.77",
        ] {
            assert!(is_left_out_anywhere(name.as_bytes()), "{name}");
        }
        for name in ["16384", "t3", "t_16384", "tx_16384", "t3_16384_x", "t3_"] {
            assert!(!is_left_out_anywhere(name.as_bytes()), "{name}");
        }
    }
}
