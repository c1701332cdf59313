//! In which segments a group's entries lie, and how many bytes they take there.

use super::Pins;
use smallvec::SmallVec;

/// The entries from one index on, up to the next span's, that lie in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    segment: u32,
    first: u64,
    bytes: u64,
}

/// Ascending by index, without gaps. Each span holds a pin on its segment.
///
/// Bytes are exact for whole spans. Of a span that was cut only their sum was known, so what is left of it
/// counts by its share of the entries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans {
    /// Hardly ever more than two, and mostly one, which is then found without a further look.
    spans: SmallVec<[Span; 1]>,
    bytes: u64,
}

impl Spans {
    /// What all entries take.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the entries take in each segment.
    pub(crate) fn by_segment(&self) -> impl Iterator<Item = (u32, u64)> {
        self.spans.iter().map(|span| (span.segment, span.bytes))
    }

    /// The ranges of indexes in a segment, each with its end excluded. The log ends before `end`.
    pub(crate) fn ranges_in(
        &self,
        segment: u32,
        end: u64,
    ) -> impl Iterator<Item = std::ops::Range<u64>> {
        let ends = self.spans.iter().skip(1).map(|next| next.first);
        let spans = self.spans.iter().zip(ends.chain([end]));
        spans
            .filter(move |(span, _)| span.segment == segment)
            .map(|(span, end)| span.first..end)
    }

    /// Adds the entry behind the last.
    pub(crate) fn push(&mut self, index: u64, segment: u32, bytes: u64, pins: &mut Pins) {
        self.bytes += bytes;
        match self.spans.last_mut() {
            Some(span) if span.segment == segment => span.bytes += bytes,
            _ => {
                pins.add(segment);
                self.spans.push(Span {
                    segment,
                    first: index,
                    bytes,
                });
            }
        }
    }

    /// Forgets the entries from `index` on; the log ended before `end`.
    pub(crate) fn cut_from(&mut self, index: u64, mut end: u64, pins: &mut Pins) {
        while let Some(&span) = self.spans.last().filter(|span| span.first >= index) {
            self.spans.pop();
            pins.release(span.segment);
            self.bytes -= span.bytes;
            end = span.first;
        }
        if let Some(span) = self.spans.last_mut()
            && index < end
        {
            let left = share(span.bytes, index - span.first, end - span.first);
            self.bytes -= span.bytes - left;
            span.bytes = left;
        }
    }

    /// Forgets the entries below `index`; the log ends before `end`.
    pub(crate) fn forget_below(&mut self, index: u64, end: u64, pins: &mut Pins) {
        let mut gone = 0;
        while let Some(span) = self.spans.get(gone).filter(|span| span.first < index) {
            let end = self.spans.get(gone + 1).map_or(end, |next| next.first);
            self.bytes -= span.bytes;
            if index >= end {
                pins.release(span.segment);
                gone += 1;
                continue;
            }
            let left = share(span.bytes, end - index, end - span.first);
            self.bytes += left;
            self.spans[gone].bytes = left;
            self.spans[gone].first = index;
        }
        self.spans.drain(..gone);
        if self.spans.len() == 1 {
            self.spans.shrink_to_fit();
        }
    }

    pub(crate) fn clear(&mut self, pins: &mut Pins) {
        for span in self.spans.drain(..) {
            pins.release(span.segment);
        }
        self.bytes = 0;
    }

    /// The entry at `index`, of so many bytes, lies in `segment` now; the log ends before `end`.
    pub(crate) fn relocate(
        &mut self,
        index: u64,
        end: u64,
        segment: u32,
        bytes: u64,
        pins: &mut Pins,
    ) {
        let after = self.spans.partition_point(|span| span.first <= index);
        let Some(at) = after.checked_sub(1) else {
            return;
        };
        let end = self.spans.get(after).map_or(end, |next| next.first);
        let old = self.spans.remove(at);
        let (before, behind) = (index - old.first, end - index - 1);
        let rest = old.bytes.saturating_sub(bytes);
        let before_bytes = share(rest, before, before + behind);
        let pieces = [
            (behind, old.segment, index + 1, rest - before_bytes),
            (1, segment, index, bytes),
            (before, old.segment, old.first, before_bytes),
        ];
        self.bytes -= old.bytes;
        for (entries, segment, first, bytes) in pieces {
            if entries > 0 {
                self.bytes += bytes;
                pins.add(segment);
                self.spans.insert(
                    at,
                    Span {
                        segment,
                        first,
                        bytes,
                    },
                );
            }
        }
        pins.release(old.segment);
        self.join(at, pins);
    }

    /// Makes one of the span at `at` and the one before it, if they lie in one segment.
    fn join(&mut self, at: usize, pins: &mut Pins) {
        if at > 0 && self.spans[at - 1].segment == self.spans[at].segment {
            let span = self.spans.remove(at);
            self.spans[at - 1].bytes += span.bytes;
            pins.release(span.segment);
        }
    }
}

/// What `part` of `whole` entries count of their bytes.
fn share(bytes: u64, part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 0;
    }
    (u128::from(bytes) * u128::from(part) / u128::from(whole)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries 1..=9 of 10 bytes, three in each of the segments 1, 2 and 3.
    fn three_segments(pins: &mut Pins) -> Spans {
        let mut spans = Spans::default();
        for index in 1..=9 {
            spans.push(index, (index as u32 - 1) / 3 + 1, 10, pins);
        }
        spans
    }

    fn ranges(spans: &Spans, end: u64) -> Vec<(u32, u64, u64)> {
        let ends = spans.spans.iter().skip(1).map(|next| next.first);
        let spans = spans.spans.iter().zip(ends.chain([end]));
        spans
            .map(|(span, end)| (span.segment, span.first, end))
            .collect()
    }

    #[test]
    fn bytes_follow_the_entries() {
        let mut pins = Pins::default();
        let mut spans = three_segments(&mut pins);
        spans.forget_below(5, 10, &mut pins);
        assert_eq!((spans.bytes(), pins.holds(1)), (50, false));
        spans.cut_from(9, 10, &mut pins);
        assert_eq!(spans.bytes(), 40);
        spans.forget_below(9, 9, &mut pins);
        assert_eq!(spans.bytes(), 0);
        assert!(!pins.holds(2) && !pins.holds(3));
    }

    #[test]
    fn an_entry_can_be_relocated_out_of_any_place() {
        let mut pins = Pins::default();
        let mut spans = three_segments(&mut pins);
        spans.relocate(5, 10, 7, 10, &mut pins);
        let split = [(1, 1, 4), (2, 4, 5), (7, 5, 6), (2, 6, 7), (3, 7, 10)];
        assert_eq!(ranges(&spans, 10), split);
        spans.relocate(4, 10, 7, 10, &mut pins);
        spans.relocate(6, 10, 7, 10, &mut pins);
        assert!(!pins.holds(2));
        assert_eq!(spans.bytes(), 90);
        assert_eq!(
            spans
                .ranges_in(7, 10)
                .map(|range| range.count())
                .sum::<usize>(),
            3
        );
        spans.clear(&mut pins);
        assert!([1, 2, 3, 7].iter().all(|segment| !pins.holds(*segment)));
    }

    #[test]
    fn entries_that_are_relocated_in_order_make_one_span() {
        let mut pins = Pins::default();
        let mut spans = three_segments(&mut pins);
        for index in 1..=6 {
            spans.relocate(index, 10, 7, 10, &mut pins);
        }
        assert_eq!(ranges(&spans, 10), [(7, 1, 7), (3, 7, 10)]);
        spans.forget_below(4, 10, &mut pins);
        assert_eq!(spans.bytes(), 60);
    }
}
