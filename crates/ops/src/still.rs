//! Files that are written to while they are read: how what was read becomes one state of them, or is said not to be.
//!
//! A file that did not hold still is read once more, as far as the first time.
//!
//! - If it held still then, that is it.
//! - If both readings are the same, the file was exactly this at the moment between them: every byte was read before
//!   it and after it. So a log that only grows is whole up to where it ended when it was opened, however busy it is.
//! - Else somebody rewrites it. What was read last is kept, because it is better than nothing, and is in doubt.
//!
//! (Bytes that change and change back between two looks are not seen. No program that reads files can see them.)

use hikae_model::{ContentError, ReadContent, Stretch, sabotage};
use hikae_repo::content::{KeepError, Kept};

/// What the content that was kept is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// It is one state of the file, and nobody wrote meanwhile.
    Still,
    /// It is one state of the file, which somebody wrote to before or after it.
    Once,
    /// It may be of several moments.
    InDoubt,
    /// It is one state of the file, and not what the source says that it must be: the sentence says how.
    Malformed(String),
}

/// Stores content by `store`, twice if it does not hold still. Gives how many bytes were read, whatever came of them.
pub(crate) fn store_still(
    content: &mut dyn ReadContent,
    mut store: impl FnMut(&mut dyn ReadContent) -> Result<Kept, KeepError>,
) -> (u64, Result<(Kept, Held), KeepError>) {
    let mut watched = Watched { content, changed: false, malformed: None, bytes: 0 };
    let kept = store_watched(&mut watched, &mut store);
    (watched.bytes, kept)
}

fn store_watched(
    watched: &mut Watched<'_>,
    store: &mut impl FnMut(&mut dyn ReadContent) -> Result<Kept, KeepError>,
) -> Result<(Kept, Held), KeepError> {
    let first = store(watched)?;
    if !watched.changed {
        return Ok((first, watched.still()));
    }
    if !watched.content.read_again() {
        return Err(ContentError::ChangedWhileRead.into());
    }
    watched.changed = false;
    match store(watched) {
        Ok(second) if !watched.changed => Ok((second, watched.still())),
        Ok(second) if second == first || sabotage::on("growth-unseen") => Ok((second, Held::Once)),
        Ok(second) => Ok((second, Held::InDoubt)),
        // Its name is gone, or is another file's by now: the first reading is all that there is.
        Err(KeepError::Content(_)) => Ok((first, Held::InDoubt)),
        Err(error) => Err(error),
    }
}

/// Content that says later, and not by an error, what is wrong with it: an error would lose what was stored.
struct Watched<'c> {
    content: &'c mut dyn ReadContent,
    changed: bool,
    malformed: Option<String>,
    bytes: u64,
}

impl Watched<'_> {
    fn still(&mut self) -> Held {
        self.malformed.take().map_or(Held::Still, Held::Malformed)
    }
}

impl ReadContent for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        let stretch = self.content.read(buffer)?;
        self.bytes += match stretch {
            Stretch::Data(n) => n as u64,
            Stretch::Hole(n) => n,
            Stretch::End => 0,
        };
        Ok(stretch)
    }

    fn finish(&mut self) -> Result<(), ContentError> {
        match self.content.finish() {
            Err(ContentError::ChangedWhileRead) => {
                self.changed = true;
                Ok(())
            }
            Err(ContentError::Malformed(how)) => {
                self.malformed = Some(how);
                Ok(())
            }
            finished => finished,
        }
    }
}
