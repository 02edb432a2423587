//! Divides content into portions that are encrypted at once.

use std::io::IoSlice;

use super::engine::CONTENT_BYTES_MAX;

/// Maximum length of a portion, and so the maximum held of a write to a slow peer.
const PORTION_BYTES_MAX: usize = 4 * CONTENT_BYTES_MAX;

/// Content to be sent, in parts.
pub(super) struct Parts<'p> {
    parts: &'p [IoSlice<'p>],
    /// How much of the first part was sent.
    at: usize,
}

impl<'p> Parts<'p> {
    /// Returns all of these parts.
    pub(super) fn new(parts: &'p [IoSlice<'p>]) -> Self {
        Self { parts, at: 0 }
    }

    /// Returns the next portion; empty at the end. Small parts are joined in `scratch`, which has room for a record, so
    /// that a head and its body are one record.
    pub(super) fn next<'s>(&mut self, scratch: &'s mut [u8]) -> &'s [u8]
    where
        'p: 's,
    {
        let mut joined = 0;
        while let Some(rest) = self.first() {
            if joined == 0 && (rest.len() >= CONTENT_BYTES_MAX || self.parts.len() == 1) {
                let portion = &rest[..rest.len().min(PORTION_BYTES_MAX)];
                self.at += portion.len();
                return portion;
            }
            let portion = &rest[..rest.len().min(CONTENT_BYTES_MAX - joined)];
            if portion.is_empty() {
                break;
            }
            scratch[joined..joined + portion.len()].copy_from_slice(portion);
            joined += portion.len();
            self.at += portion.len();
        }
        &scratch[..joined]
    }

    /// Returns the rest of the first part that has one.
    fn first(&mut self) -> Option<&'p [u8]> {
        while let [first, rest @ ..] = self.parts {
            if self.at < first.len() {
                return Some(&first[self.at..]);
            }
            (self.parts, self.at) = (rest, 0);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn portions(lens: &[usize]) -> Vec<usize> {
        let content: Vec<Vec<u8>> = lens.iter().zip(1..).map(|(&len, byte)| vec![byte; len]).collect();
        let slices: Vec<_> = content.iter().map(|part| IoSlice::new(part)).collect();
        let (mut parts, mut scratch, mut portions, mut all) =
            (Parts::new(&slices), [0; CONTENT_BYTES_MAX], Vec::new(), Vec::new());
        loop {
            let portion = parts.next(&mut scratch);
            if portion.is_empty() {
                break;
            }
            portions.push(portion.len());
            all.extend_from_slice(portion);
        }
        assert_eq!(all, content.concat(), "{lens:?}");
        portions
    }

    #[test]
    fn small_parts_share_a_record_and_long_ones_are_not_copied() {
        const RECORD: usize = CONTENT_BYTES_MAX;
        for (lens, expected) in [
            (&[][..], &[][..]),
            (&[0, 0], &[]),
            (&[5], &[5]),
            (&[0, 5], &[5]),
            (&[5, 0], &[5]),
            (&[200, 1000], &[1200]),
            (&[200, RECORD], &[RECORD, 200]),
            (&[200, 3 * RECORD], &[RECORD, 2 * RECORD + 200]),
            (&[RECORD, 200], &[RECORD, 200]),
            (&[9 * RECORD + 1], &[4 * RECORD, 4 * RECORD, RECORD + 1]),
            (&[1, 1, 1], &[3]),
        ] {
            assert_eq!(portions(lens), expected, "{lens:?}");
        }
    }
}
