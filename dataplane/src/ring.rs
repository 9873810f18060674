//! One writer, one reader, no lock: words in a ring of atomics.
//!
//! ```text
//!      read            written
//!        ▼                ▼
//!  │ ... │ w w w w w w w w│ ...  │      whoever writes sees at most `words.len()` between the two, or gives up
//! ```
//! A worker writes and control reads. Were there two writers by mistake, words would be nonsense and nothing worse.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct Ring {
    words: Box<[AtomicU64]>,
    read: AtomicU64,
    written: AtomicU64,
}

impl Ring {
    /// A ring of at least this many words.
    pub(crate) fn new(words: usize) -> Ring {
        let words = std::iter::repeat_with(AtomicU64::default).take(words.next_power_of_two()).collect();
        Ring { words, read: AtomicU64::new(0), written: AtomicU64::new(0) }
    }

    fn place(&self, at: u64) -> Option<&AtomicU64> {
        let mask = self.words.len().checked_sub(1)?;
        self.words.get(usize::try_from(at).unwrap_or(usize::MAX) & mask)
    }

    /// Begins to write. Nothing of it is seen before [`Writer::commit`].
    pub(crate) fn writer(&self) -> Writer<'_> {
        let at = self.written.load(Ordering::Relaxed);
        let end = self.read.load(Ordering::Acquire) + self.words.len() as u64;
        Writer { ring: self, at, end }
    }

    /// What was committed and not read yet.
    pub(crate) fn reader(&self) -> Reader<'_> {
        let at = self.read.load(Ordering::Relaxed);
        Reader { ring: self, at, end: self.written.load(Ordering::Acquire) }
    }
}

/// Words on their way into the ring.
#[derive(Debug)]
pub(crate) struct Writer<'r> {
    ring: &'r Ring,
    at: u64,
    end: u64,
}

impl Writer<'_> {
    /// Whether so many words fit.
    pub(crate) fn fits(&self, words: usize) -> bool {
        self.end.saturating_sub(self.at) >= words as u64
    }

    /// Appends a word; what does not fit is left out.
    pub(crate) fn put(&mut self, word: u64) {
        if let Some(place) = self.ring.place(self.at).filter(|_| self.at < self.end) {
            place.store(word, Ordering::Relaxed);
            self.at += 1;
        }
    }

    /// Appends gathered octets, at most `limit` of them, the last word filled with zeros.
    pub(crate) fn put_pieces<'p>(&mut self, pieces: impl Iterator<Item = &'p [u8]>, mut limit: usize) {
        let (mut word, mut filled) = ([0u8; 8], 0usize);
        for piece in pieces {
            let mut rest = piece.get(..limit.min(piece.len())).unwrap_or_default();
            limit -= rest.len();
            while !rest.is_empty() {
                let room = (8 - filled).min(rest.len());
                let (now, later) = rest.split_at(room);
                word[filled..filled + room].copy_from_slice(now);
                (filled, rest) = (filled + room, later);
                if filled == 8 {
                    self.put(u64::from_le_bytes(word));
                    (word, filled) = ([0; 8], 0);
                }
            }
        }
        if filled > 0 {
            self.put(u64::from_le_bytes(word));
        }
    }

    /// Where it stands: what [`Ring::amend`] and [`Ring::commit`] take.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Lets the reader see all of it.
    pub(crate) fn commit(self) {
        self.ring.written.store(self.at, Ordering::Release);
    }
}

impl Ring {
    /// Changes a word that was written and not yet committed.
    pub(crate) fn amend(&self, at: u64, word: u64) {
        if let Some(place) = self.place(at) {
            place.store(word, Ordering::Relaxed);
        }
    }

    /// Commits what was written up to there.
    pub(crate) fn commit(&self, at: u64) {
        self.written.store(at, Ordering::Release);
    }
}

/// Words on their way out.
#[derive(Debug)]
pub(crate) struct Reader<'r> {
    ring: &'r Ring,
    at: u64,
    end: u64,
}

impl Reader<'_> {
    pub(crate) fn word(&mut self) -> Option<u64> {
        let place = self.ring.place(self.at).filter(|_| self.at < self.end)?;
        self.at += 1;
        Some(place.load(Ordering::Relaxed))
    }

    /// Appends so many octets; fewer where there are no more.
    pub(crate) fn octets(&mut self, len: usize, out: &mut Vec<u8>) {
        let mut left = len;
        while left > 0 {
            let Some(word) = self.word() else { return };
            let take = left.min(8);
            out.extend(word.to_le_bytes().iter().take(take));
            left -= take;
        }
    }

    /// Gives the room of what was read back to the writer.
    pub(crate) fn done(self) {
        self.ring.read.store(self.at, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_come_out_as_they_went_in_over_the_edge_and_over_again() {
        let ring = Ring::new(16);
        for round in 0..50u8 {
            let pieces = [&[round; 3][..], &[], &[round ^ 0xff; 9], &[7; 20]];
            let mut writer = ring.writer();
            assert!(writer.fits(6) && !writer.fits(17));
            writer.put(u64::from(round));
            writer.put_pieces(pieces.into_iter(), 27);
            writer.commit();
            let mut reader = ring.reader();
            assert_eq!(reader.word(), Some(u64::from(round)));
            let mut out = Vec::new();
            reader.octets(27, &mut out);
            assert_eq!(out, pieces.concat()[..27]);
            assert_eq!(reader.word(), None);
            reader.done();
        }
    }

    #[test]
    fn nothing_is_seen_before_it_is_committed_and_nothing_unread_is_overwritten() {
        let ring = Ring::new(4);
        let mut writer = ring.writer();
        (1..=6).for_each(|word| writer.put(word));
        assert_eq!(ring.reader().word(), None);
        writer.commit();
        let mut reader = ring.reader();
        assert!(!ring.writer().fits(1));
        assert_eq!([1; 5].map(|_| reader.word()), [Some(1), Some(2), Some(3), Some(4), None]);
        reader.done();
        assert!(ring.writer().fits(4));
    }

    #[test]
    fn two_threads_pass_everything_on_in_order() {
        let ring = Ring::new(64);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut next = 0u64;
                while next < 10_000 {
                    let mut writer = ring.writer();
                    if writer.fits(1) {
                        writer.put(next);
                        writer.commit();
                        next += 1;
                    } else {
                        std::thread::yield_now();
                    }
                }
            });
            let mut wanted = 0u64;
            while wanted < 10_000 {
                let mut reader = ring.reader();
                match reader.word() {
                    Some(word) => {
                        assert_eq!(word, wanted);
                        wanted += 1;
                        reader.done();
                    }
                    None => std::thread::yield_now(),
                }
            }
        });
    }
}
