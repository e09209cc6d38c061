//! What is due: looked for after every input, until nothing more is.

use conclave_crypto::digest::Digest;
use conclave_crypto::fixed;

use crate::floats::Floats;
use crate::letter::Bytes;
use crate::member::Member;
use crate::message;
use crate::names::Height;
use crate::outbox;
use crate::output::{Order, Output, Report, Table};
use crate::record::Previous;
use crate::session::open::Outcome;
use crate::session::train::Terms;

/// More passes than any input can need: each does something that is done once.
pub(super) const PASSES: usize = 64;

impl Member {
    /// Does everything that is due now, and sets the alarm for what is due later. Whether more may be due at once.
    pub(super) fn advance(&mut self) -> bool {
        if self.finished {
            self.desk.reset_alarm();
            return false;
        }
        for _ in 0..PASSES {
            self.desk.reset_alarm();
            let (said, head) = (self.desk.tray.len(), self.ledger.head());
            self.remember();
            self.meet();
            self.set_up();
            self.open_sum();
            self.work();
            self.decide();
            if self.ledger.head() != head {
                self.take_early();
            } else if self.desk.tray.len() == said {
                break;
            }
        }
        let done = self.desk.tray.len();
        self.speak();
        self.tell();
        self.desk.tray.len() != done
    }

    /// R9. Height 1 is timed from the moment when all founders can be reached, or T_genesis after a quorum can.
    fn meet(&mut self) {
        if self.meeting.met.is_some() {
            return;
        }
        let Some(roster) = self.ledger.roster(Height(1)) else {
            return;
        };
        let (desk, meeting) = (&mut self.desk, &mut self.meeting);
        let near = |(id, key)| {
            desk.me == Some(id) || desk.peers.contains(&key) || desk.heard.contains_key(&id)
        };
        let near = roster
            .ids()
            .zip(roster.keys())
            .filter(|founder| near(*founder))
            .count();
        if near >= roster.quorum() && meeting.quorum.is_none() {
            meeting.quorum = Some(desk.now);
        }
        let patient = meeting.quorum.is_some_and(|quorum| {
            let genesis = desk.timers().genesis;
            desk.due(quorum + genesis)
        });
        if near == roster.len() || patient || self.ledger.head().0 > 0 {
            meeting.met = Some(desk.now);
            for session in self.sessions.values_mut() {
                session.begun = session.begun.or(Some(self.desk.now));
            }
        }
    }

    /// R10, R11, R12. The set-up of the next height; late boxes of the current one.
    fn set_up(&mut self) {
        let next = self.ledger.next();
        for session in self.sessions.values_mut() {
            session.hand_out(&mut self.desk);
        }
        for (height, session) in self.sessions.range_mut(next..) {
            let ahead = *height > next && self.ledger.more_rounds(next);
            // Whoever comes late still holds shares: boxes are made for it until the dealer has submitted.
            if ahead || (*height == next && session.work.is_some()) {
                session.advertise(&mut self.desk);
            }
            if ahead || session.said(&self.desk, crate::envelope::Kind::Deal) {
                session.deal(&mut self.desk);
            }
            session.open_boxes(&mut self.desk);
            if ahead {
                session.acknowledge(&mut self.desk);
            }
            session.report_dealt(&mut self.desk);
            session.count_set_up();
        }
    }

    /// R30 to R35. Reveals and opens what the newest record calls for.
    fn open_sum(&mut self) {
        let height = self.ledger.head();
        let round = self.ledger.round(height).unwrap_or_default();
        let terms = if self.lacks_terms(height) {
            self.settled_terms(height)
        } else {
            None
        };
        let Some(session) = self.sessions.get_mut(&height) else {
            return;
        };
        if let Some(work) = session.work.as_mut().filter(|work| work.terms.is_none()) {
            work.terms = terms;
            session.submissions.stir();
        }
        session.open_boxes(&mut self.desk);
        session.pull_vectors(&mut self.desk);
        let before = session.opening.result.is_some();
        let journal = &mut self.journal;
        session.look(
            &mut self.desk,
            |looks| &mut looks.opening,
            |session, desk| {
                session.sum_shards(desk);
                session.reveal(desk, journal);
                session.collect(desk);
                session.open(desk);
                // What gathers the sums has pulled already.
                if session.opening.gathering.is_none() {
                    session.pull_shards(desk);
                }
            },
        );
        if before {
            return;
        }
        if session.opening.result.is_none() {
            return;
        }
        let rebuilt = session.dropouts();
        match &session.opening.result {
            Some(Outcome::Opened { digest, adapter }) => {
                let (digest, adapter) = (*digest, adapter.clone());
                let rebuilt = rebuilt
                    .iter()
                    .filter_map(|id| session.roster.key(*id).copied())
                    .collect();
                self.keep_adapter(digest, &adapter);
                let fact = outbox::opened_fact(height);
                self.desk
                    .store(Table::Facts, fact, digest.as_bytes().to_vec());
                self.desk.report(Report::Opened {
                    height,
                    round,
                    adapter: digest,
                    rebuilt,
                });
            }
            Some(Outcome::OutOfRange) => {
                let reason = format!("round {}: the sum is out of range and is spent", round.0);
                self.desk.warn(reason);
            }
            Some(Outcome::Guilty(_)) => {
                self.desk
                    .warn(format!("round {}: a dealing is proved false", round.0));
            }
            None => {}
        }
    }

    /// Holds an adapter, durably: others may pull it.
    pub(super) fn keep_adapter(&mut self, digest: Digest, adapter: &Floats) {
        let key = digest.as_bytes().to_vec();
        self.desk
            .store(Table::Adapters, key, adapter.bytes().clone());
        self.adapters.insert(digest, adapter.clone());
    }

    /// A blob stands in its table: what was held of it in memory is held there from now on.
    pub(super) fn stored(&mut self, name: Digest, bytes: &Bytes) {
        for session in self.sessions.values_mut() {
            session.submissions.settle(&name, bytes);
            session.sharding.recent.settle(&name, bytes);
        }
        let Some(floats) = self.adapters.get_mut(&name) else {
            return;
        };
        let Some(adapter) = Floats::from_bytes(bytes).filter(|stored| stored.len() == floats.len())
        else {
            return;
        };
        *floats = adapter.clone();
        for session in self.sessions.values_mut() {
            session.settle_adapter(&name, &adapter);
        }
    }

    /// R14, R15, R16. The current height: its terms, the training, the vectors.
    fn work(&mut self) {
        self.adopt();
        let height = self.ledger.next();
        let terms = if self.lacks_terms(height) || self.has_stale_terms(height) {
            self.terms(height)
        } else {
            None
        };
        let Some(session) = self.sessions.get_mut(&height) else {
            return;
        };
        let Some(work) = &mut session.work else {
            return;
        };
        if terms.is_some() {
            work.terms = terms;
            work.ready = Some(self.desk.now);
            work.ordered = false;
            session.submissions.stir();
        }
        session.train(&mut self.desk);
        session.submit(&mut self.desk);
        session.pull_vectors(&mut self.desk);
        session.count_vectors(&self.desk);
        session.announce_held(&mut self.desk);
        session.collect_shards(&mut self.desk);
    }

    /// Whether a height has work to do and does not know from what.
    fn lacks_terms(&self, height: Height) -> bool {
        let work = self.sessions.get(&height).and_then(|s| s.work.as_ref());
        work.is_some_and(|work| work.terms.is_none())
    }

    /// R77. Whether the current height works from a result of the one before that was summed again to another.
    fn has_stale_terms(&self, height: Height) -> bool {
        let work = self.sessions.get(&height).and_then(|s| s.work.as_ref());
        let terms = work.and_then(|work| work.terms.as_ref());
        let before = self.sessions.get(&self.ledger.head());
        match before.and_then(|before| before.opening.result.as_ref()) {
            Some(Outcome::Opened { digest, .. }) => {
                terms.is_some_and(|terms| terms.digest != *digest)
            }
            Some(Outcome::OutOfRange | Outcome::Guilty(_)) | None => false,
        }
    }

    /// What a decided height was trained from: the adapter that its own record, or one before, certifies.
    fn settled_terms(&self, height: Height) -> Option<Terms> {
        let digest = self.ledger.certified()?;
        let adapter = self.adapters.get(&digest)?.clone();
        let sid = self.ledger.sum_id(height, &digest)?;
        Some(Terms {
            sid,
            adapter,
            digest,
        })
    }

    /// What the current height trains from: the result of the height before, once it is known.
    fn terms(&self, height: Height) -> Option<Terms> {
        let before = self.sessions.get(&self.ledger.head());
        let called = before.filter(|before| before.opening.called.is_some());
        let digest = match called.map(|before| &before.opening.result) {
            Some(Some(Outcome::Opened { digest, .. })) => *digest,
            Some(Some(Outcome::OutOfRange | Outcome::Guilty(_)) | None) => return None,
            None => self.ledger.certified()?,
        };
        let adapter = self.adapters.get(&digest)?.clone();
        let sid = self.ledger.sum_id(height, &digest)?;
        Some(Terms {
            sid,
            adapter,
            digest,
        })
    }

    /// Takes over the newest adapter; a certified one that is not here is pulled by its digest. R35
    fn adopt(&mut self) {
        let Some(newest) = self.newest_adapter() else {
            return;
        };
        if !self.adapters.contains_key(&newest) && self.desk.due(self.pull_at) {
            self.pull_at = self.desk.now + self.desk.timers().have;
            let roster = self.ledger.roster(self.ledger.next());
            // Those that are late do not all ask the same member first.
            let from = roster.map(|roster| roster.behind(&self.desk.key));
            let from = from.unwrap_or_default();
            let length = u64::try_from(self.desk.layout.len)
                .unwrap_or(u64::MAX)
                .saturating_mul(4);
            self.desk.tray.push_back(Output::Pull {
                name: newest,
                length,
                from,
            });
        }
        let Some(adapter) = self.adapters.get(&newest) else {
            return;
        };
        if self.adopted != Some(newest) {
            self.adopted = Some(newest);
            let height = self.opened_by(&newest);
            let round = self.ledger.round(height).unwrap_or_default();
            let adapter = adapter.clone();
            let order = Order::Adopt {
                height,
                round,
                adapter,
                digest: newest,
            };
            self.desk.tray.push_back(Output::Order(order));
        }
    }

    /// The height whose sum gave this adapter; 0 for the one before training.
    fn opened_by(&self, digest: &Digest) -> Height {
        let head = self.ledger.head();
        let own = self
            .sessions
            .get(&head)
            .and_then(|session| session.opening.result.as_ref());
        if matches!(own, Some(Outcome::Opened { digest: own, .. }) if own == digest) {
            return head;
        }
        let certifies = |height: &Height| {
            let entry = self.ledger.entry(*height);
            entry.is_some_and(|entry| entry.record.previous == Previous::Opened(*digest))
        };
        let certified = (1..=head.0).rev().map(Height).find(certifies);
        Height(certified.map_or(0, |height| height.0.saturating_sub(1)))
    }

    /// A pulled adapter: its digest is its name.
    pub(super) fn take_adapter(&mut self, bytes: &Bytes) -> bool {
        let Some(name) = self.newest_adapter() else {
            return false;
        };
        let Some(values) = Floats::from_bytes(bytes) else {
            return false;
        };
        let fits = values.len() == self.desk.layout.len
            && fixed::adapter_digest(&self.desk.layout.shape, &values) == name;
        if fits {
            self.keep_adapter(name, &values);
        }
        fits
    }
}

/// The encoded entry of a height, as it is handed on.
pub(super) fn decided_body(entry: &crate::record::Entry) -> Vec<u8> {
    let record = entry.bytes.to_vec();
    message::encode(&message::Decided {
        record,
        certificate: entry.certificate.clone(),
    })
}
