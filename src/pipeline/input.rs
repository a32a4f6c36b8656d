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

#[cfg(test)]
mod tests {
    use super::*;

    /// Random steps, beside what they do to a plain list of bytes.
    #[test]
    fn it_holds_what_came_and_was_not_finished_and_grows_no_more_than_it_must() {
        let mut state = 1_u64;
        let mut below = |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % bound as u64).unwrap()
        };
        let (mut input, mut byte) = (Input::default(), 0_u8);
        let (mut held, mut read) = (Vec::new(), 0);
        let (mut grew, mut shrank) = (0, 0);
        for _ in 0..2_000 {
            match below(8) {
                0..4 if held.len() < 4 * KEPT => {
                    let (before, pending) = (input.bytes.len(), held.len());
                    let space = input.space();
                    assert!(space.len() >= CHUNK / 2);
                    let count = below(space.len() + 1);
                    space[..count].fill(byte);
                    held.resize(pending + count, byte);
                    byte = byte.wrapping_add(1);
                    input.add(count);
                    let after = input.bytes.len();
                    if pending == 0 && before > KEPT {
                        assert_eq!(after, CHUNK);
                        shrank += 1;
                    } else if before - pending < CHUNK / 2 {
                        assert!(after > before && after <= 2 * pending + CHUNK);
                        grew += 1;
                    } else {
                        assert_eq!(after, before);
                    }
                }
                4 => {
                    let count = below(held.len() - read + 3);
                    input.consume(count);
                    read = held.len().min(read + count);
                }
                5 => {
                    input.consume(held.len());
                    read = held.len();
                }
                6 => {
                    input.finish();
                    held.drain(..read);
                    read = 0;
                }
                _ if below(8) == 0 => {
                    input.clear();
                    held.clear();
                    read = 0;
                }
                _ => {
                    input.rewind();
                    read = 0;
                }
            }
            assert!(input.unread() == &held[read..]);
            assert_eq!(input.has_any(), !held.is_empty());
            assert_eq!(input.has_unread(), read < held.len());
            assert_eq!(input.has_read(), read > 0);
        }
        assert!(grew > 10 && shrank > 1, "{grew} {shrank}");
    }
}
