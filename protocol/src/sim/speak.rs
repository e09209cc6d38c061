//! What places say: noted, judged, and sent on its way.

use conclave_crypto::digest::Digest;

use super::World;
use super::byzantine::Ballot;
use super::check::canon::is_canonical;
use super::tally::{Load, Way};
use super::world::Event;
use crate::decide::Step;
use crate::envelope::Kind;
use crate::letter::Letter;
use crate::message::Commit;
use crate::names::MemberId;

impl World {
    /// Says something to one place, or to all; a hostile place says something else.
    pub(super) fn say(&mut self, place: usize, to: Option<usize>, bytes: &Letter) {
        let Some(twisted) = self.twist(place, to, bytes) else {
            self.inspect(place, bytes);
            return self.deliver(place, to, bytes);
        };
        for said in twisted {
            if self.is_hostile(place) {
                self.tell(place, &said.bytes);
            } else {
                self.inspect(place, &said.bytes);
            }
            self.deliver(place, said.to, &said.bytes);
        }
    }

    /// Notes what anybody says.
    fn tell(&mut self, place: usize, bytes: &Letter) {
        self.count(place, Load::of(bytes), Way::Sent, bytes.len());
        self.watch.trace(bytes.digest().as_bytes());
        self.watch.testimony(bytes);
    }

    /// Notes what an honest place says.
    fn inspect(&mut self, place: usize, bytes: &Letter) {
        self.tell(place, bytes);
        let (places, watch) = self.parts();
        let Ok(envelope) = bytes.envelope() else {
            return;
        };
        watch.envelope(bytes);
        // What it hands on for others is theirs.
        let own = places.get(place).filter(|found| {
            let ledger = found.member.as_ref().map(|member| member.ledger());
            ledger.and_then(|ledger| ledger.member(&found.key)) == Some(envelope.sender)
        });
        let Some(own) = own else { return };
        if !is_canonical(envelope, bytes) {
            watch.uncanonical.push((place, envelope.kind));
        }
        if envelope.kind == Kind::Reveal && !own.has_journalled(envelope) {
            watch.early_reveals.push((place, envelope.sess));
        }
        if envelope.kind == Kind::Commit
            && let (Ok(commit), Some(member)) = (bytes.body::<Commit>(), &own.member)
        {
            watch.masked(envelope, &commit, member.ledger());
        }
        if envelope.kind == Kind::Vote
            && let Some(ballot) = Ballot::of(envelope)
            && ballot.step == Step::Precommit
            && let Some(record) = ballot.record
        {
            let survivors = watch.proposed.get(&record);
            let lacks =
                |named: &&(MemberId, Digest)| !own.holds_vector(watch, ballot.height, **named);
            let lacking = survivors.into_iter().flatten().filter(lacks);
            let lacking: Vec<_> = lacking
                .map(|(member, _)| (place, ballot.height, *member))
                .collect();
            watch.unheld.extend(lacking);
        }
    }

    pub(super) fn deliver(&mut self, from: usize, to: Option<usize>, bytes: &Letter) {
        match to {
            Some(to) if to == from => {
                // What a script says in its member's name comes to that member like everybody else's.
                let other = (0..self.places.len()).find(|other| self.linked(*other, to));
                let bytes = bytes.clone();
                if let Some(from) = other {
                    self.after(1, Event::Arrive { from, to, bytes });
                }
            }
            Some(to) => self.send(from, to, bytes),
            None => {
                for to in 0..self.places.len() {
                    self.send(from, to, bytes);
                    self.relay(from, to, bytes);
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, bytes: &Letter) {
        if let Some(found) = self.places.get_mut(from) {
            found.opened = false;
        }
        if !self.linked(from, to) {
            return;
        }
        for delay in self.network.ways(&self.faults, self.now, from, to) {
            let bytes = bytes.clone();
            self.after(delay, Event::Arrive { from, to, bytes });
        }
    }
}
