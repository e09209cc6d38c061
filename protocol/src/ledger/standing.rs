//! Who may share: what the chain says against members, and whether it says that the job cannot go on.

use std::collections::{BTreeMap, BTreeSet};

use crate::evidence::Evidence;
use crate::names::{Height, MemberId};
use crate::record::{Cause, Previous, Record};

/// Sums in a row, with none opened in between, that may be out of range: the second one ends the job. R65
const OUT_OF_RANGE: u32 = 2;

/// What the records so far say against members.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// Whose dealing was proved false.
    culprits: BTreeSet<MemberId>,
    /// Who contradicted itself under its own signature. R64
    convicted: BTreeSet<MemberId>,
    /// How often each withheld, and the last height in which it may not share for it. R62
    silence: BTreeMap<MemberId, (u32, Height)>,
    /// Sums out of range since the last one that was opened. R65
    out_of_range: u32,
}

impl Standing {
    /// Takes note of a record that was checked.
    pub(super) fn note(&mut self, record: &Record) {
        let convicted = record.evidence.iter().map(Evidence::against);
        self.convicted.extend(convicted);
        match &record.previous {
            Previous::None => {}
            Previous::Opened(_) => self.out_of_range = 0,
            Previous::Spent {
                cause,
                culprits,
                silent,
            } => {
                self.culprits.extend(culprits.iter().copied());
                for member in silent {
                    let (times, until) = self.silence.entry(*member).or_default();
                    *times = times.saturating_add(1);
                    *until = Height(record.height.0.saturating_add(pause(*times)));
                }
                if *cause == Cause::Range {
                    self.out_of_range = self.out_of_range.saturating_add(1);
                }
            }
        }
    }

    /// Whether a member may not share in this height.
    pub(super) fn excluded(&self, member: MemberId, height: Height) -> bool {
        let silent = self.silence.get(&member);
        self.proved(member) || silent.is_some_and(|(_, until)| height <= *until)
    }

    /// Whether something is proved against a member: it never shares again.
    pub(super) fn proved(&self, member: MemberId) -> bool {
        self.culprits.contains(&member) || self.convicted.contains(&member)
    }

    /// Whether a member contradicted itself under its own signature.
    pub(super) fn convicted(&self, member: MemberId) -> bool {
        self.convicted.contains(&member)
    }

    /// R65. Whether sums were out of range too often.
    pub(super) const fn halted(&self) -> bool {
        self.out_of_range >= OUT_OF_RANGE
    }
}

/// R62. Heights without a share after the first, second, third … time: 2, 4, 8 ….
fn pause(times: u32) -> u64 {
    1u64.checked_shl(times.min(32)).unwrap_or(u64::MAX)
}
