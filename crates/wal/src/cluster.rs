//! The data directory in which the server runs us: whose it is, and whether a file of its log is what its name says.

use crate::failure::{of_file, refusal, usage};
use hikae_model::{ErrorCode, Failure, SegmentHeader, SystemId, WalName, sabotage};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::Path;

/// Begins with the system identifier (`ControlFileData` in `catalog/pg_control.h`), as every version has it.
const CONTROL_FILE: &str = "global/pg_control";

/// The cluster in whose data directory we are; nothing if we are in none.
///
/// # Errors
/// Any failure to read its control file but that there is none.
pub fn current() -> Result<Option<SystemId>, Failure> {
    let path = Path::new(CONTROL_FILE);
    let mut bytes = [0; 8];
    match File::open(path).and_then(|mut file| file.read_exact(&mut bytes)) {
        Ok(()) => Ok(Some(SystemId(u64::from_le_bytes(bytes)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(of_file("read", path, &error)),
    }
}

/// A file of the log that was found to be what its name says.
pub struct LogFile {
    /// Its name.
    pub name: WalName,
    /// Whose it is.
    pub system: SystemId,
    /// Its bytes, from the first.
    pub file: File,
}

impl LogFile {
    /// Opens a file of the log of `current`, which is the cluster in whose data directory we are.
    ///
    /// # Errors
    /// [`Failure`] for a file that is none, is of another cluster, or is not what its name says.
    pub fn open(path: &Path, current: Option<SystemId>) -> Result<Self, Failure> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name: WalName = name.parse().map_err(|error| usage(format!("{error}")))?;
        let mut file = File::open(path).map_err(|error| of_file("read", path, &error))?;
        if let WalName::Part(_) = name {
            return Err(usage(format!("{} is no file that a server archives", path.display())));
        }
        let is_segment = matches!(name, WalName::Segment(_));
        let written_by = match name {
            WalName::Segment(segment) | WalName::Partial(segment) if !sabotage::on("segments-unread") => {
                let unfit = |why: &dyn std::fmt::Display| {
                    let what = format!("{} is not archived: {why}", path.display());
                    refusal(ErrorCode::VerificationFailed, what, "see what has written to pg_wal")
                };
                let mut start = Vec::new();
                let read = (&file).take(SegmentHeader::BYTES as u64).read_to_end(&mut start);
                let bytes = read.and_then(|_| file.rewind()).and_then(|()| file.metadata());
                let bytes = bytes.map_err(|error| of_file("read", path, &error))?.len();
                let header = SegmentHeader::parse(&start).map_err(|why| unfit(&why))?;
                header.check_name(segment).map_err(|why| unfit(&why))?;
                if is_segment {
                    header.check_length(bytes).map_err(|why| unfit(&why))?;
                }
                Some(header.system)
            }
            _ => None,
        };
        let system = match (written_by, current) {
            (Some(written_by), Some(current)) if written_by != current => {
                let what = format!(
                    "{} is not archived: system {written_by} wrote it, and this is system {current}",
                    path.display()
                );
                return Err(refusal(ErrorCode::Forbidden, what, "see where pg_wal leads to"));
            }
            (Some(system), _) | (None, Some(system)) => system,
            (None, None) => {
                let what = format!("nothing says which cluster wrote {}", path.display());
                return Err(refusal(
                    ErrorCode::Usage,
                    what,
                    "run it in the data directory, as PostgreSQL does",
                ));
            }
        };
        Ok(Self { name, system, file })
    }
}
