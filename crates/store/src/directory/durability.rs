//! Which file systems keep what fsync promised.

use rustix::fd::OwnedFd;
use rustix::io::Errno;

/// Whether an object that was stored survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As far as the disk itself keeps what it says it wrote.
    Full,
    /// Not known to.
    BestEffort {
        /// Why, as part of a sentence: `NFS, which …`.
        why: &'static str,
    },
}

/// Judges by the kind of file system. Numbers from `linux/magic.h` and `statfs(2)`.
pub(super) fn of(root: &OwnedFd) -> Result<Durability, Errno> {
    // The field is signed on some machines and holds 32 bits.
    let kind = rustix::fs::fstatfs(root)?.f_type as u32;
    Ok(of_kind(kind))
}

fn of_kind(kind: u32) -> Durability {
    let why = match kind {
        0xef53 | 0x5846_5342 | 0x9123_683e | 0xf2f5_2010 | 0x2fc1_2fc1 => return Durability::Full, // see test
        0x6969 => "NFS, where the server decides when data is on its disk",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB, where the server decides when data is on its disk",
        0x6573_5546 => "FUSE, where a program decides what fsync means",
        0x794c_7630 => "overlayfs, as in containers, which may not pass fsync on",
        0x0102_1994 | 0x8584_58f6 => "memory, which a power cut empties",
        0x0102_1997 => "9P, as between a machine and its host, which may not pass fsync on",
        0x4d44 | 0x2011_bab0 => "FAT, which keeps no journal of its directories",
        _ => "a file system of a kind that hikae has not been tested on",
    };
    Durability::BestEffort { why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tested_file_systems_count_as_durable() {
        for (kind, name) in [
            (0xef53, "ext2, ext3, ext4"),
            (0x5846_5342, "XFS"),
            (0x9123_683e, "btrfs"),
            (0xf2f5_2010, "F2FS"),
            (0x2fc1_2fc1, "ZFS"),
        ] {
            assert_eq!(of_kind(kind), Durability::Full, "{name}");
        }
        for (kind, name) in [
            (0x6969, "NFS"),
            (0xff53_4d42, "CIFS"),
            (0x6573_5546, "FUSE"),
            (0x794c_7630, "overlay"),
            (1, "?"),
        ] {
            assert!(matches!(of_kind(kind), Durability::BestEffort { .. }), "{name}");
        }
    }
}
