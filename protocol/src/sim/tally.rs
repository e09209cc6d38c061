//! The tally of a world: messages and bytes of each place, sent and received, by kind and by height.
//!
//! What is said to all counts once at its author, and once at each place that it arrives at; the copies that a gossip
//! mesh carries beside are not in it. A pulled blob counts at the place that serves it and at the one that gets it.

use crate::envelope::Kind;
use crate::letter::Letter;
use crate::names::Height;

/// Messages with their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many messages or blobs.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// An envelope of this kind.
    Envelope(Kind),
    /// Bytes that are no envelope.
    Unsound,
    /// A vector or an adapter that was pulled.
    Blob,
}

/// Which way it went, seen from the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Out.
    Sent,
    /// In.
    Received,
}

/// What each place sent and received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    places: Vec<Vec<Page>>,
}

/// The traffic of one place while it worked at one height.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Page {
    height: Height,
    sent: [Traffic; LOADS],
    received: [Traffic; LOADS],
}

/// Room for all kinds; the last two are for what is no envelope.
const LOADS: usize = 32;

impl Tally {
    /// Counts one message at a place that works at a height.
    pub fn count(&mut self, place: usize, height: Height, load: Load, way: Way, bytes: u64) {
        if self.places.len() <= place {
            self.places.resize(place + 1, Vec::new());
        }
        let Some(pages) = self.places.get_mut(place) else {
            return;
        };
        // A restarted member goes back a little; nearly always it is the last page.
        let at = pages.iter().rposition(|page| page.height == height);
        let at = at.unwrap_or_else(|| {
            pages.push(Page {
                height,
                sent: [Traffic::default(); LOADS],
                received: [Traffic::default(); LOADS],
            });
            pages.len() - 1
        });
        let row = pages.get_mut(at).map(|page| match way {
            Way::Sent => &mut page.sent,
            Way::Received => &mut page.received,
        });
        if let Some(traffic) = row.and_then(|row| row.get_mut(load.index())) {
            traffic.add(Traffic { messages: 1, bytes });
        }
    }

    /// The traffic that a filter of place, height, load and way lets through.
    fn sum(&self, fits: impl Fn(usize, Height, usize, Way) -> bool) -> Traffic {
        let mut total = Traffic::default();
        for (place, pages) in self.places.iter().enumerate() {
            for page in pages {
                for (way, row) in [(Way::Sent, &page.sent), (Way::Received, &page.received)] {
                    for (load, traffic) in row.iter().enumerate() {
                        if fits(place, page.height, load, way) {
                            total.add(*traffic);
                        }
                    }
                }
            }
        }
        total
    }

    /// All that a place sent, or received.
    pub fn of(&self, place: usize, way: Way) -> Traffic {
        self.sum(|at, _, _, went| at == place && went == way)
    }

    /// All that the places sent, or received, while they worked at a height.
    pub fn at(&self, height: Height, way: Way) -> Traffic {
        self.sum(|_, at, _, went| at == height && went == way)
    }

    /// All of one load that the places sent, or received.
    pub fn load(&self, load: Load, way: Way) -> Traffic {
        self.sum(|_, _, at, went| at == load.index() && went == way)
    }

    /// Bytes of one load, or of all, that a place sent, or received, while it worked at a height.
    pub fn went(&self, place: usize, height: Height, load: Option<Load>, way: Way) -> u64 {
        let index = load.map(Load::index);
        let wanted = |at| index.is_none_or(|index| index == at);
        let fits = |who, at, load, went| (who, at, went) == (place, height, way) && wanted(load);
        self.sum(fits).bytes
    }

    /// What the places sent, or received, in all.
    pub fn total(&self, way: Way) -> Traffic {
        self.sum(|_, _, _, went| went == way)
    }

    /// The bytes of each of so many places, sent and received together, ascending.
    pub fn bytes_by_place(&self, places: usize) -> Vec<u64> {
        let both = |place| self.of(place, Way::Sent).bytes + self.of(place, Way::Received).bytes;
        let mut bytes: Vec<u64> = (0..places).map(both).collect();
        bytes.sort_unstable();
        bytes
    }
}

impl Load {
    /// What a letter is.
    pub fn of(letter: &Letter) -> Self {
        letter
            .envelope()
            .map_or(Self::Unsound, |envelope| Self::Envelope(envelope.kind))
    }

    fn index(self) -> usize {
        match self {
            Self::Envelope(kind) => kind as usize,
            Self::Unsound => LOADS - 2,
            Self::Blob => LOADS - 1,
        }
    }
}

impl Traffic {
    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_counts_where_it_was() {
        let mut tally = Tally::default();
        let vote = Load::Envelope(Kind::Vote);
        tally.count(2, Height(1), vote, Way::Sent, 100);
        tally.count(2, Height(2), vote, Way::Sent, 10);
        tally.count(2, Height(1), Load::Blob, Way::Received, 7);
        tally.count(0, Height(2), Load::Unsound, Way::Received, 3);
        let traffic = |messages, bytes| Traffic { messages, bytes };
        assert_eq!(tally.of(2, Way::Sent), traffic(2, 110));
        assert_eq!(tally.of(1, Way::Sent), traffic(0, 0));
        assert_eq!(tally.at(Height(1), Way::Sent), traffic(1, 100));
        assert_eq!(tally.load(vote, Way::Sent), traffic(2, 110));
        assert_eq!(tally.load(Load::Blob, Way::Received), traffic(1, 7));
        assert_eq!(tally.total(Way::Received), traffic(2, 10));
        assert_eq!(tally.bytes_by_place(4), [0, 0, 3, 117]);
        assert!((Kind::Decided as usize) < LOADS - 2);
    }
}
