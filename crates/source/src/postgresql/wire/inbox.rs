//! Bytes that came and wait to be looked at. One buffer for a connection's whole life, so that rows are hashed and copied
//! where the socket put them.

/// Bytes that came and were not yet looked at.
pub(super) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes: vec![0; bytes], start: 0, end: 0 }
    }

    pub(super) fn ready(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Free space for at least one more byte than is there, and for `want` bytes in all.
    pub(super) fn make_room(&mut self, want: usize) -> &mut [u8] {
        if self.start > 0 && (self.end == self.bytes.len() || self.start + want > self.bytes.len()) {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let len = want.max(self.end + 1);
        if self.bytes.len() < len {
            self.bytes.resize(len.next_power_of_two(), 0);
        }
        let end = self.end;
        &mut self.bytes[end..]
    }

    /// Counts `n` bytes that were put into the room.
    pub(super) fn grow(&mut self, n: usize) {
        self.end += n;
    }
}
