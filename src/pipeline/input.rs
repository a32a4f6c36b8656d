//! What was read of a lane.

/// How much is read at once, and how much of a larger buffer is kept for the next reply.
const CHUNK: usize = 8 * 1024;
const KEPT: usize = 64 * 1024;

/// What was read of a lane: the current reply from its first byte on, and what follows.
#[derive(Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    at: usize,
    end: usize,
}

impl Input {
    pub(super) fn has_any(&self) -> bool {
        self.start < self.end
    }

    pub(super) fn has_unread(&self) -> bool {
        self.at < self.end
    }

    /// Whether anything of the current reply has been read.
    pub(super) fn has_read(&self) -> bool {
        self.start < self.at
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.at..self.end]
    }

    /// The current reply is to be read again.
    pub(super) fn rewind(&mut self) {
        self.at = self.start;
    }

    /// The current reply ends here.
    pub(super) fn finish(&mut self) {
        self.start = self.at;
    }

    pub(super) fn clear(&mut self) {
        (self.start, self.at, self.end) = (0, 0, 0);
    }

    /// Room for what comes next, behind what there is.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if !self.has_any() {
            self.clear();
            if self.bytes.len() > KEPT {
                self.bytes = Vec::new();
            }
        }
        if self.bytes.len() - self.end < CHUNK / 2 {
            if self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
                self.at -= self.start;
                self.end -= self.start;
                self.start = 0;
            }
            if self.bytes.len() - self.end < CHUNK / 2 {
                self.bytes.resize((self.bytes.len() * 2).max(CHUNK), 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes were read into that room.
    pub(super) fn add(&mut self, count: usize) {
        self.end += count;
    }

    /// So many bytes of the current reply have been read.
    pub(super) fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.end);
    }
}
