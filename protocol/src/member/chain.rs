//! What happens when a record is decided, and what a restart takes up from the durable state.

use std::collections::BTreeSet;

use conclave_crypto::digest::Digest;

use crate::charter::Charter;
use crate::evidence::Evidence;
use crate::ledger::{Ledger, Start};
use crate::member::{Member, advance};
use crate::names::Height;
use crate::outbox;
use crate::output::{Order, Output, Report, Stored, Table};
use crate::params;
use crate::record::{Entry, Previous};
use crate::session::Session;
use crate::session::open::Outcome;
use crate::setup::OpenError;
use crate::time::Span;

impl Ledger {
    /// Reads the own chain back: hashes and rules are checked again, signatures were checked before it was stored.
    pub(crate) fn restore(
        charter: Charter,
        start: Start,
        stored: &Stored,
    ) -> Result<Self, OpenError> {
        let mut ledger = Self::new(charter, Some(start));
        for (key, bytes) in outbox::table(stored, Table::Ledger) {
            let height = ledger.next();
            let damaged = |what: String| OpenError::Ledger {
                height: height.0,
                what,
            };
            if outbox::key_height(key) != Some(height) {
                return Err(damaged("a record is missing".to_owned()));
            }
            let entry = ledger.parse(bytes).map_err(|broken| damaged(broken.what))?;
            if entry.digest != entry.certificate.record {
                return Err(damaged("its certificate is of another record".to_owned()));
            }
            ledger
                .append(entry)
                .map_err(|broken| damaged(broken.what))?;
        }
        Ok(ledger)
    }
}

impl Member {
    /// Takes up the open sessions of an earlier run.
    pub(super) fn take_up(&mut self, stored: &Stored) {
        self.desk.me = self.ledger.member(&self.desk.key);
        self.desk.memory.restore(stored);
        let next = self.ledger.next();
        for height in [next.0.saturating_sub(1), next.0, next.0.saturating_add(1)].map(Height) {
            self.open_session(height);
            let Some(session) = self.sessions.get_mut(&height) else {
                continue;
            };
            session.restore(&mut self.desk, stored);
            if height <= next {
                self.start_work(height);
            }
            self.take_up_result(height, stored);
        }
        let rows = outbox::table(stored, Table::Secrets).map(|(key, _)| key.to_vec());
        let open: Vec<_> = self.sessions.keys().copied().collect();
        let wanted = |key: &Vec<u8>| {
            open.iter().any(|height| {
                *key == outbox::mask_file(*height) || *key == outbox::open_file(*height)
            })
        };
        for key in rows.filter(|key| !wanted(key)).collect::<Vec<_>>() {
            self.desk.erase(Table::Secrets, key);
        }
        // A crash may have left blobs that nothing names.
        let rows = self
            .sessions
            .values()
            .map(|session| session.rows(self.desk.me));
        let named: BTreeSet<_> = rows.flatten().collect();
        for table in [Table::Vectors, Table::Shards] {
            for (key, _) in outbox::table(stored, table) {
                if !named.contains(&(table, key.to_vec())) {
                    self.desk.erase(table, key.to_vec());
                }
            }
        }
        let prefix = outbox::height_key(next);
        let rows = outbox::under(stored, Table::Wal, &prefix);
        self.wal = rows.map(|(_, entry)| entry.clone()).collect();
        self.desk.unseated.extend(outbox::unseated(stored));
        self.begin_decision();
    }

    fn take_up_result(&mut self, height: Height, stored: &Stored) {
        let Some(entry) = self.ledger.entry(height).cloned() else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&height) else {
            return;
        };
        session.settle(&self.desk, &entry);
        let fact = outbox::value(stored, Table::Facts, &outbox::opened_fact(height));
        let digest = fact.and_then(|bytes| bytes.try_into().ok()).map(Digest);
        if let Some(digest) = digest
            && let Some(adapter) = self.adapters.get(&digest)
        {
            let adapter = adapter.clone();
            session.opening.result = Some(Outcome::Opened { digest, adapter });
        }
    }

    /// Opens the session of a height, unless the job is over or it is open.
    pub(super) fn open_session(&mut self, height: Height) {
        let over = height > self.ledger.next() && self.ledger.closing(self.ledger.next());
        let wanted = height.0 > 0 && !over && !self.ledger.over() || height <= self.ledger.head();
        if !wanted || height.0 == 0 || self.sessions.contains_key(&height) {
            return;
        }
        let (Some(sess), Some(roster)) =
            (self.ledger.session_id(height), self.ledger.roster(height))
        else {
            return;
        };
        // R9  The first two sessions are timed from the founders' meeting.
        let begun = if height.0 <= 2 {
            self.meeting.met
        } else {
            Some(self.desk.now)
        };
        self.sessions
            .insert(height, Session::new(height, sess, roster, begun));
    }

    /// Starts what the record before fixed: the height's sharers and their round.
    fn start_work(&mut self, height: Height) {
        let Some(round) = self.ledger.round(height) else {
            return;
        };
        let factor = params::factor(&self.desk.layout, round);
        let sharers = self.ledger.sharers(height);
        if let Some(session) = self.sessions.get_mut(&height) {
            session.start_work(&self.desk, round, factor, sharers);
        }
    }

    /// R40, R41. Appends a decided record: durable first, then everything that follows from it.
    pub(super) fn decided(&mut self, entry: &Entry) -> bool {
        let height = self.ledger.next();
        if let Err(broken) = self.ledger.append(entry.clone()) {
            self.desk
                .warn(format!("a certified record is not taken: {broken}"));
            return false;
        }
        let row = advance::decided_body(entry);
        self.desk
            .store(Table::Ledger, outbox::height_key(height), row);
        self.forget_log(height);
        self.certify(height, entry);
        self.close_session(Height(height.0.saturating_sub(1)));
        self.settle(height, entry);
        self.report_decided(height, entry);
        self.desk.me = self.ledger.member(&self.desk.key);
        self.open_session(Height(height.0.saturating_add(1)));
        self.open_session(Height(height.0.saturating_add(2)));
        self.start_work(Height(height.0.saturating_add(1)));
        self.begin_decision();
        self.pulse.answered.clear();
        let next = self.ledger.next();
        self.joins
            .retain(|_, join| self.ledger.admissible(join, next).is_ok());
        self.leaves
            .retain(|_, leave| self.ledger.leaver(leave, next).is_ok());
        if self.ledger.over() {
            self.closed = Some(self.desk.now);
            self.pulse.heartbeat = self.desk.now;
        }
        true
    }

    fn forget_log(&mut self, height: Height) {
        for index in 0..self.wal.len() {
            let index = u64::try_from(index).unwrap_or(u64::MAX);
            self.desk.erase(Table::Wal, outbox::wal_key(height, index));
        }
        self.wal.clear();
        self.weighed.clear();
    }

    /// R35. What the record says of the height before: a certified result overrides the own one.
    fn certify(&mut self, height: Height, entry: &Entry) {
        let before = Height(height.0.saturating_sub(1));
        let Some(session) = self.sessions.get(&before) else {
            return;
        };
        let own = match &session.opening.result {
            Some(Outcome::Opened { digest, .. }) => Some(*digest),
            Some(Outcome::OutOfRange | Outcome::Guilty(_)) | None => None,
        };
        match &entry.record.previous {
            Previous::Opened(digest) if own.is_some_and(|own| own != *digest) => {
                let round = self.ledger.round(before).unwrap_or_default();
                self.desk.warn(format!(
                    "the own result of round {} differs from the certified one and is dropped",
                    round.0
                ));
                if let Some(session) = self.sessions.get_mut(&height) {
                    if let Some(work) = &mut session.work {
                        work.terms = None;
                    }
                    session.submissions.stir();
                }
            }
            Previous::Opened(digest) if own == Some(*digest) => {
                if let (Some(called), Some(work)) = (&session.opening.called, &session.work) {
                    let last = session.submissions.last.unwrap_or(called.since);
                    let begun = work.ready.unwrap_or(work.since);
                    self.paces.push(Span((last - begun).0.max(1)));
                }
            }
            Previous::Opened(_) | Previous::None | Previous::Spent { .. } => {}
        }
    }

    /// The height's record stands: training for it is over, and it may call for a sum.
    fn settle(&mut self, height: Height, entry: &Entry) {
        let Some(session) = self.sessions.get_mut(&height) else {
            return;
        };
        let training = session.work.as_ref().is_some_and(|work| work.ordered);
        if training && session.may_submit(&self.desk) {
            self.desk
                .tray
                .push_back(Output::Order(Order::Cancel { height }));
        }
        session.settle(&self.desk, entry);
        if let Some(certified) = self.ledger.certified() {
            session.carry(&mut self.desk, &entry.record.survivor_ids(), certified);
        }
    }

    /// R36. A session closes with the record after its own: secrets, shares, vectors and envelopes go.
    fn close_session(&mut self, height: Height) {
        let Some(session) = self.sessions.remove(&height) else {
            return;
        };
        for file in [outbox::mask_file(height), outbox::open_file(height)] {
            self.desk.erase(Table::Secrets, file);
        }
        for (table, key) in session.rows(self.desk.me) {
            self.desk.erase(table, key);
        }
        self.desk.erase(Table::Facts, outbox::opened_fact(height));
        self.prune_adapters();
    }

    /// Keeps the adapters that somebody may still pull: the certified one and the newest.
    fn prune_adapters(&mut self) {
        let newest = self.newest_adapter();
        let certified = self.ledger.certified();
        let keep = |digest: &Digest| Some(*digest) == newest || Some(*digest) == certified;
        let old: Vec<_> = self
            .adapters
            .keys()
            .copied()
            .filter(|digest| !keep(digest))
            .collect();
        // The initial adapter is never stored, but is needed until the first result is certified.
        for digest in old {
            self.adapters.remove(&digest);
            self.desk.erase(Table::Adapters, digest.as_bytes().to_vec());
        }
    }

    fn report_decided(&mut self, height: Height, entry: &Entry) {
        let key = |id| self.ledger.person(id).map(|person| person.key);
        let keys = |ids: Vec<_>| ids.into_iter().filter_map(key).collect::<Vec<_>>();
        let report = Report::Decided {
            height,
            round: self.ledger.round(height),
            head: entry.digest,
            sharers: keys(self.ledger.sharer_ids(height)),
            survivors: entry
                .record
                .survivors
                .is_some()
                .then(|| keys(entry.record.survivor_ids())),
            members_after_next: keys(entry.record.members_after_next.clone()),
            spent: match entry.record.previous {
                Previous::Spent { cause, .. } => Some(cause),
                Previous::None | Previous::Opened(_) => None,
            },
            convicted: keys(
                entry
                    .record
                    .evidence
                    .iter()
                    .map(Evidence::against)
                    .collect(),
            ),
        };
        self.desk.report(report);
        let me = self.desk.me;
        if let Some(evidence) = entry
            .record
            .evidence
            .iter()
            .find(|e| Some(e.against()) == me)
        {
            self.desk.warn(format!(
                "record {} convicts this node: it signed two different messages of one kind ({}) in one session. It \
                 shares no more; to take part again it needs a new identity and an invitation",
                height.0,
                evidence.first.kind.name()
            ));
        }
    }
}
