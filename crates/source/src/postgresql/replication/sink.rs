//! Where followed WAL goes.

use hikae_model::{Lsn, SegmentName, Timeline};

/// Why a sink could not keep what it was given.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Who keeps what a stream brings.
///
/// Segments come whole and in order, timeline after timeline. After a restart of ours a segment of which only the
/// beginning was kept comes again from its start. A sink that takes long hands its work to a thread of its own and says
/// later that it is durable: while it works on ours, the server hears nothing from us, and ends the connection after
/// `wal_sender_timeout`.
pub trait WalSink {
    /// A whole segment. It takes the place of all that was partial of it.
    ///
    /// # Errors
    /// Ends the stream: what cannot be kept is not to be received.
    fn segment(&mut self, segment: SegmentName, bytes: &[u8]) -> Result<(), SinkError>;

    /// What came of a segment so far, from its first byte. More than when it was given before.
    ///
    /// # Errors
    /// As [`segment`](Self::segment).
    fn partial(&mut self, segment: SegmentName, bytes: &[u8]) -> Result<(), SinkError>;

    /// The file of the history of a timeline, before anything of that timeline. It may come again, the same.
    ///
    /// # Errors
    /// As [`segment`](Self::segment).
    fn history(&mut self, timeline: Timeline, text: &[u8]) -> Result<(), SinkError>;

    /// The place before which all that was given is durable; `None` if nothing is yet. The server is told this and no
    /// more: it then drops what a slot has held for us. What was given as partial has to become durable as well: a
    /// server that is shut down waits until we have everything.
    fn durable(&mut self) -> Option<Lsn>;
}
