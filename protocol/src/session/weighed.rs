//! A proposed record, parsed, and what the chain before it says of it.

use crate::ledger::Ledger;
use crate::places::Places;
use crate::record::{Record, Sharer};
use crate::roster::Roster;

/// A proposed record, and what follows from it and the chain alone.
#[derive(Debug)]
pub(crate) struct Weighed {
    /// The record, if the bytes are one.
    pub(crate) record: Option<Record>,
    /// Whether it may follow the head.
    pub(crate) follows: bool,
    /// The places of each sharer's acknowledgers in the next height.
    pub(crate) ackers: Vec<Places>,
}

impl Weighed {
    /// Asks the chain about a record. `next`: the members of the height after it.
    pub(crate) fn new(record: Option<Record>, ledger: &Ledger, next: Option<&Roster>) -> Self {
        let follows = record.as_ref().is_some_and(|r| ledger.check(r).is_ok());
        let sharers = record.iter().flat_map(|record| &record.sharers_next);
        let places = |sharer: &Sharer| next?.places(&sharer.ackers);
        let ackers = sharers.filter_map(places).collect::<Vec<_>>();
        let all = record.as_ref().map_or(0, |r| r.sharers_next.len());
        Self {
            follows: follows && ackers.len() == all,
            record,
            ackers,
        }
    }
}
