//! What a member may have forgotten: after a start it asks the others before it says anything new. R60, R61

use std::collections::BTreeSet;

use conclave_crypto::sign::PublicKey;

use crate::message::Question;
use crate::names::{Height, MemberId};
use crate::outbox;
use crate::output::{Stored, Table};
use crate::roster::Roster;
use crate::time::{Span, Time};

/// The fact that outlives a restart: the last height in which nothing is said, big-endian.
pub(crate) const FACT: &[u8] = b"silent";

/// What is known of the own past.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Whether what is stored is known to be whole.
    intact: bool,
    /// Names what we ask the others.
    question: Question,
    /// Members that told what they hold of us.
    answered: BTreeSet<MemberId>,
    /// When the first of them did.
    first: Option<Time>,
    /// Enough of them did.
    settled: bool,
    /// The last height in which nothing is said.
    silent: Option<Height>,
    /// The silence grew since it was last looked at.
    changed: bool,
}

impl Memory {
    /// A start: nobody has been asked yet.
    pub(crate) const fn new(intact: bool, question: Question) -> Self {
        Self {
            intact,
            question,
            answered: BTreeSet::new(),
            first: None,
            settled: false,
            silent: None,
            changed: false,
        }
    }

    /// Takes up a silence that an earlier run began.
    pub(crate) fn restore(&mut self, stored: &Stored) {
        let fact = outbox::value(stored, Table::Facts, FACT);
        let height = fact.and_then(|bytes| bytes.try_into().ok());
        self.silent = height.map(|bytes| Height(u64::from_be_bytes(bytes)));
    }

    /// Whether something new may be said in this height's session.
    pub(crate) fn may_speak(&self, height: Height) -> bool {
        self.settled && self.silent.is_none_or(|until| height > until)
    }

    /// Whether what is stored is known to be whole.
    pub(crate) const fn is_intact(&self) -> bool {
        self.intact
    }

    /// Names what is asked of the others at this start.
    pub(crate) const fn question(&self) -> Question {
        self.question
    }

    /// Whether it is known what was said before.
    pub(crate) const fn is_settled(&self) -> bool {
        self.settled
    }

    /// The last height in which nothing is said.
    pub(crate) const fn silent(&self) -> Option<Height> {
        self.silent
    }

    /// A member told what it holds of us.
    pub(crate) fn answer(&mut self, member: MemberId, now: Time) {
        self.answered.insert(member);
        self.first.get_or_insert(now);
    }

    /// Whether this member told already.
    pub(crate) fn has_answered(&self, member: MemberId) -> bool {
        self.answered.contains(&member)
    }

    /// R60. Settled when all others of the roster answered; or when q − 1 did, T_sync after the first answer. `Err`:
    /// look again at that moment.
    pub(crate) fn settle(
        &mut self,
        roster: &Roster,
        me: MemberId,
        sync: Span,
        now: Time,
    ) -> Result<bool, Time> {
        if self.settled {
            return Ok(false);
        }
        let others = roster.ids().filter(|id| *id != me);
        let answers = others.filter(|id| self.answered.contains(id)).count();
        let all = answers >= roster.len().saturating_sub(1);
        if !all {
            let Some(first) = self.first else {
                return Ok(false);
            };
            if answers < roster.quorum().saturating_sub(1) {
                return Ok(false);
            }
            let at = first + sync;
            if at > now {
                return Err(at);
            }
        }
        self.settled = true;
        self.changed = true;
        Ok(true)
    }

    /// R60. Whether those that answered or can be asked directly are too few to settle.
    pub(crate) fn is_cut_off(
        &self,
        roster: &Roster,
        me: MemberId,
        peers: &BTreeSet<PublicKey>,
    ) -> bool {
        let near = |id: &MemberId| {
            self.answered.contains(id) || roster.key(*id).is_some_and(|key| peers.contains(key))
        };
        let near = roster.ids().filter(|id| *id != me).filter(near).count();
        near < roster.quorum().saturating_sub(1)
    }

    /// R61. Something that was said at this height is not known here. True if the silence grows.
    pub(crate) fn silence(&mut self, height: Height) -> bool {
        let until = Height(height.0.saturating_add(2));
        let grows = self.silent.is_none_or(|known| until > known);
        if grows {
            self.silent = Some(until);
            self.changed = true;
        }
        grows
    }

    /// Whether anything changed since the last look.
    pub(crate) fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use conclave_crypto::sign::IdentityKey;

    use super::*;

    fn roster(n: u8) -> Roster {
        let key = |id| IdentityKey::from_bytes(&[id; 32]).public();
        Roster::new((0..n).map(|id| (MemberId(id.into()), key(id))).collect())
    }

    // R60: q − 1 answers and T_sync after the first, or everybody's answer.
    #[test]
    fn it_settles_when_enough_others_answered() {
        let (roster, me, sync) = (roster(5), MemberId(0), Span(1000));
        let mut most = Memory::new(true, [0; 16]);
        for other in 1..4 {
            assert_eq!(most.settle(&roster, me, sync, Time(9999)), Ok(false));
            most.answer(MemberId(other), Time(9000));
        }
        assert_eq!(
            most.settle(&roster, me, sync, Time(9999)),
            Err(Time(10_000))
        );
        assert_eq!(most.settle(&roster, me, sync, Time(10_000)), Ok(true));
        assert!(most.may_speak(Height(1)));
        let mut all = Memory::new(true, [0; 16]);
        for other in 1..5 {
            all.answer(MemberId(other), Time(7));
        }
        assert_eq!(all.settle(&roster, me, sync, Time(7)), Ok(true));
    }

    // R61: silent up to the newest forgotten height and two more, restarts included.
    #[test]
    fn what_was_forgotten_makes_it_silent() {
        let mut memory = Memory::new(true, [0; 16]);
        memory.settled = true;
        assert!(memory.silence(Height(4)) && !memory.silence(Height(3)));
        assert!(!memory.may_speak(Height(6)) && memory.may_speak(Height(7)));
        let row = 6u64.to_be_bytes().to_vec();
        let stored = Stored::from([((Table::Facts, FACT.to_vec()), row.into())]);
        let mut again = Memory::new(true, [0; 16]);
        again.restore(&stored);
        assert_eq!(again.silent(), Some(Height(6)));
    }
}
