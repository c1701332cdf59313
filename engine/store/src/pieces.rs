//! Where a replica's rows are: in ranges of tablets.
//!
//! Normally that is one tablet, all of it. A split shares it: both halves have a piece of the same tablet, and no row is
//! copied. A merge lists the pieces of both. No two pieces of a node have a row in common, and a piece is only ever made of
//! pieces that are there, or of a tablet that is new. So what nobody refers to is never referred to again, and may go.
//!
//! The ranges are of user keys. A tablet has no rows but those of [`Space::Data`](crate::keys::Space).

use crate::keys::{self, Space};
use bytes::Bytes;
use pontoon_types::TabletId;
use pontoon_types::codec::{DecodeError, Reader, put_bytes, put_varint};

/// Some of a tablet: its rows with keys from `start` up to, and without, `end`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// The tablet.
    pub tablet: TabletId,
    /// The first key; empty: from the tablet's first row on.
    pub start: Bytes,
    /// The first key behind it; empty: up to the tablet's last row.
    pub end: Bytes,
}

impl Piece {
    /// All of a tablet.
    #[must_use]
    pub const fn whole(tablet: TabletId) -> Self {
        Self {
            tablet,
            start: Bytes::new(),
            end: Bytes::new(),
        }
    }

    /// The first stored key that it may have.
    #[must_use]
    pub fn stored_start(&self) -> Vec<u8> {
        match &self.start[..] {
            [] => keys::tablet_prefix(self.tablet).to_vec(),
            start => keys::stored_key(self.tablet, Space::Data, start),
        }
    }

    /// The first stored key behind it.
    #[must_use]
    pub fn stored_end(&self) -> Vec<u8> {
        match &self.end[..] {
            [] => keys::tablet_end(self.tablet).to_vec(),
            end => keys::stored_key(self.tablet, Space::Data, end),
        }
    }

    /// The stored keys of what it has from a key up to, and without, another one; `None`: up to its end. `None` if that is
    /// nothing.
    pub(crate) fn stored_range(
        &self,
        from: &[u8],
        end: Option<&[u8]>,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let from = from.max(&self.start);
        let own = Some(&self.end[..]).filter(|end| !end.is_empty());
        let end = [own, end].into_iter().flatten().min();
        if end.is_some_and(|end| end <= from) {
            return None;
        }
        let behind = match end {
            Some(end) => keys::stored_key(self.tablet, Space::Data, end),
            None => keys::prefix_end(self.tablet, Space::Data).to_vec(),
        };
        Some((keys::stored_key(self.tablet, Space::Data, from), behind))
    }

    fn ends_by(&self, key: &[u8]) -> bool {
        !self.end.is_empty() && &self.end[..] <= key
    }

    fn is_followed_by(&self, next: &Self) -> bool {
        !self.end.is_empty() && self.end == next.start
    }

    /// Whether the two are one.
    fn is_continued_by(&self, next: &Self) -> bool {
        self.tablet == next.tablet && self.is_followed_by(next)
    }

    /// Whether all of `other` is in it.
    fn covers(&self, other: &Self) -> bool {
        let ends_within = self.end.is_empty() || !other.end.is_empty() && other.end <= self.end;
        self.tablet == other.tablet && self.start <= other.start && ends_within
    }

    /// Pieces as few as can be: of those in a row that are one, or have rows in common, the second goes on with the first.
    pub(crate) fn united(pieces: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut united: Vec<Self> = Vec::new();
        for piece in pieces {
            match united.last_mut() {
                Some(last) if last.is_continued_by(&piece) || last.overlaps(&piece) => {
                    if piece.end.is_empty() || last.ends_by(&piece.end) {
                        last.end = piece.end;
                    }
                }
                _ => united.push(piece),
            }
        }
        united
    }

    /// Whether they have a row in common.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.tablet == other.tablet && !self.ends_by(&other.start) && !other.ends_by(&self.start)
    }
}

/// A replica's pieces, in the order of their keys: each begins where the one before it ends, and together they have at
/// least the replica's range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces(List);

/// The usual case is one that needs no search.
#[derive(Clone, Debug, PartialEq, Eq)]
enum List {
    Whole(TabletId),
    Parts(Box<[Piece]>),
}

impl From<TabletId> for Pieces {
    /// All of one tablet.
    fn from(tablet: TabletId) -> Self {
        Self(List::Whole(tablet))
    }
}

impl Pieces {
    /// Of pieces in order, of which no two in a row are one.
    fn listed(list: Vec<Piece>) -> Self {
        match &list[..] {
            [one] if *one == Piece::whole(one.tablet) => one.tablet.into(),
            _ => Self(List::Parts(list.into())),
        }
    }

    /// The tablet that has the row of a key.
    ///
    /// # Panics
    /// If no piece has the key, which is not in the replica's range then: the row would be another replica's.
    #[inline]
    #[must_use]
    pub fn tablet(&self, key: &[u8]) -> TabletId {
        match &self.0 {
            List::Whole(tablet) => *tablet,
            List::Parts(parts) => tablet_in(parts, key),
        }
    }

    /// The tablet of the first row.
    #[must_use]
    pub fn first(&self) -> TabletId {
        match &self.0 {
            List::Whole(tablet) => *tablet,
            List::Parts(parts) => parts[0].tablet,
        }
    }

    /// The tablet, if it is one and all of it.
    #[must_use]
    pub const fn whole(&self) -> Option<TabletId> {
        match &self.0 {
            List::Whole(tablet) => Some(*tablet),
            List::Parts(_) => None,
        }
    }

    /// The pieces.
    pub fn iter(&self) -> impl Iterator<Item = Piece> + Send + use<'_> {
        let (whole, parts) = match &self.0 {
            List::Whole(tablet) => (Some(Piece::whole(*tablet)), &[][..]),
            List::Parts(parts) => (None, &parts[..]),
        };
        whole.into_iter().chain(parts.iter().cloned())
    }

    /// Whether they have a row in common: whether one is what became of the other, and no snapshot has taken its place.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_in_both = |one: Piece| other.iter().any(|two| one.overlaps(&two));
        self.iter().any(is_in_both)
    }

    /// The pieces of the two halves of a range that is split at a key.
    pub(crate) fn split(&self, at: &[u8]) -> (Self, Self) {
        let (left, right) = self.cut(at);
        (Self::listed(left), Self::listed(right))
    }

    /// The pieces of two neighbours as one list. What lies beyond the border between them is not in it.
    pub(crate) fn join(left: &Self, right: &Self, border: &[u8]) -> Self {
        let ((left, _), (_, right)) = (left.cut(border), right.cut(border));
        Self::listed(Piece::united(left.into_iter().chain(right)))
    }

    /// The pieces, and parts of them, before a key and from it on.
    fn cut(&self, at: &[u8]) -> (Vec<Piece>, Vec<Piece>) {
        let (mut before, mut behind) = (Vec::new(), Vec::new());
        for piece in self.iter() {
            if piece.ends_by(at) {
                before.push(piece);
            } else if &piece.start[..] >= at {
                behind.push(piece);
            } else {
                let at = Bytes::copy_from_slice(at);
                let (end, start) = (at.clone(), at);
                before.push(Piece {
                    end,
                    ..piece.clone()
                });
                behind.push(Piece { start, ..piece });
            }
        }
        (before, behind)
    }

    /// Whether each of them is in one of `pieces`.
    pub(crate) fn are_within(&self, pieces: &[Piece]) -> bool {
        let is_within = |new: Piece| pieces.iter().any(|old| old.covers(&new));
        self.iter().all(is_within)
    }

    /// What is wrong with them as those of a replica with this range, if anything is.
    pub(crate) fn check(&self, start: &[u8], end: &[u8]) -> Result<(), &'static str> {
        let parts = match &self.0 {
            List::Whole(keys::LOCAL_TABLET) => return Err("tablet 0 is the node's own"),
            List::Whole(_) => return Ok(()),
            List::Parts(parts) => parts,
        };
        if parts.iter().any(|piece| piece.tablet == keys::LOCAL_TABLET) {
            return Err("tablet 0 is the node's own");
        }
        if parts.iter().any(|piece| piece.ends_by(&piece.start)) {
            return Err("a piece is empty");
        }
        let pairs = || parts.iter().zip(parts.iter().skip(1));
        if !pairs().all(|(one, next)| one.is_followed_by(next)) {
            return Err("a piece does not begin where the one before it ends");
        }
        if pairs().any(|(one, next)| one.is_continued_by(next)) {
            return Err("two pieces are one");
        }
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
            return Err("there are no pieces");
        };
        let is_all = &first.start[..] <= start
            && (last.end.is_empty() || !end.is_empty() && last.end[..] >= *end);
        // A list has no pieces that its replica does not need.
        let is_needed = !first.ends_by(start) && (end.is_empty() || last.start[..] < *end);
        match is_all && is_needed {
            true => Ok(()),
            false => Err("its pieces are not those of its range"),
        }
    }

    /// Appends how many there are, and the tablet and both ends of each.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.iter().count() as u64);
        for piece in self.iter() {
            put_varint(out, piece.tablet.0);
            put_bytes(out, &piece.start);
            put_bytes(out, &piece.end);
        }
    }

    /// Reads what [`Pieces::encode`] wrote. They are still to be checked.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut parts = Vec::new();
        for _ in 0..reader.varint()? {
            parts.push(Piece {
                tablet: TabletId(reader.varint()?),
                start: Bytes::copy_from_slice(reader.bytes()?),
                end: Bytes::copy_from_slice(reader.bytes()?),
            });
        }
        Ok(Self::listed(parts))
    }
}

/// Where a row is whose replica has several pieces, or a part of a tablet.
#[cold]
fn tablet_in(parts: &[Piece], key: &[u8]) -> TabletId {
    let behind = parts.partition_point(|piece| &piece.start[..] <= key);
    let piece = parts[..behind].last().filter(|piece| !piece.ends_by(key));
    piece
        .expect("a row of a replica has a key in its range")
        .tablet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(tablet: u64, start: &'static str, end: &'static str) -> Piece {
        Piece {
            tablet: TabletId(tablet),
            start: start.into(),
            end: end.into(),
        }
    }

    fn list(pieces: &[Piece]) -> Pieces {
        Pieces(List::Parts(pieces.into()))
    }

    #[test]
    fn a_split_gives_each_half_its_part_and_a_merge_puts_them_together_again() {
        let whole = Pieces::from(TabletId(7));
        let (left, right) = whole.split(b"m");
        assert_eq!(left, list(&[piece(7, "", "m")]));
        assert_eq!(right, list(&[piece(7, "m", "")]));
        let (middle, right) = right.split(b"p");
        assert_eq!(middle, list(&[piece(7, "m", "p")]));
        let two = Pieces::join(&left, &middle, b"m");
        assert_eq!(two, list(&[piece(7, "", "p")]));
        assert_eq!(Pieces::join(&two, &right, b"p"), whole);
    }

    #[test]
    fn a_merge_lists_both_up_to_the_border() {
        let (left, right) = (Pieces::from(TabletId(1)), Pieces::from(TabletId(2)));
        let both = Pieces::join(&left, &right, b"m");
        assert_eq!(both, list(&[piece(1, "", "m"), piece(2, "m", "")]));
        assert_eq!(
            both.split(b"m"),
            (list(&[piece(1, "", "m")]), list(&[piece(2, "m", "")]))
        );
        let (left, right) = both.split(b"c");
        assert_eq!(left, list(&[piece(1, "", "c")]));
        assert_eq!(right, list(&[piece(1, "c", "m"), piece(2, "m", "")]));
    }

    #[test]
    fn a_key_is_in_the_piece_that_has_it() {
        let both = list(&[piece(1, "b", "m"), piece(2, "m", "p")]);
        assert_eq!(
            ["b", "lzz", "m", "ozz"].map(|key| both.tablet(key.as_bytes()).0),
            [1, 1, 2, 2]
        );
        for outside in ["", "a", "p", "z"] {
            let found = std::panic::catch_unwind(|| both.tablet(outside.as_bytes()));
            assert!(found.is_err(), "{outside:?}");
        }
        assert_eq!(Pieces::from(TabletId(3)).tablet(b"anything"), TabletId(3));
    }

    #[test]
    fn pieces_that_are_no_replicas_are_refused() {
        let good = [
            list(&[piece(1, "", "m"), piece(2, "m", "")]),
            list(&[piece(1, "b", "m"), piece(2, "m", "n"), piece(1, "n", "p")]),
            list(&[piece(1, "a", "z")]),
        ];
        for pieces in good {
            assert_eq!(pieces.check(b"b", b"p"), Ok(()), "{pieces:?}");
        }
        let bad = [
            vec![],
            vec![piece(0, "", "m"), piece(2, "m", "")],
            vec![piece(1, "", "m"), piece(2, "k", "")],
            vec![piece(1, "", "m"), piece(2, "n", "")],
            vec![piece(2, "m", ""), piece(1, "", "m")],
            vec![piece(1, "", ""), piece(2, "m", "")],
            vec![piece(1, "", "m"), piece(2, "m", "m"), piece(3, "m", "")],
            vec![piece(1, "", "m"), piece(2, "m", "c"), piece(3, "c", "")],
            vec![piece(1, "", "c"), piece(1, "c", "")],
            vec![piece(1, "", ""), piece(1, "", "")],
            vec![piece(1, "c", "")],
            vec![piece(1, "", "o")],
            vec![piece(1, "", "b"), piece(2, "b", "")],
            vec![piece(1, "", "p"), piece(2, "p", "")],
        ];
        for pieces in bad {
            assert!(list(&pieces).check(b"b", b"p").is_err(), "{pieces:?}");
        }
        assert!(
            list(&[piece(1, "", "z")]).check(b"b", b"").is_err(),
            "it has no end"
        );
    }

    #[test]
    fn pieces_overlap_if_they_have_a_row_in_common() {
        let one = piece(1, "c", "m");
        for other in [
            piece(1, "", ""),
            piece(1, "", "d"),
            piece(1, "l", ""),
            piece(1, "d", "e"),
        ] {
            assert!(one.overlaps(&other) && other.overlaps(&one), "{other:?}");
        }
        for other in [piece(2, "c", "m"), piece(1, "", "c"), piece(1, "m", "")] {
            assert!(!one.overlaps(&other) && !other.overlaps(&one), "{other:?}");
        }
    }
}
