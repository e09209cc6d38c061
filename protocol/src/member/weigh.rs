//! Weighing a proposed record: parsed once, and judged again only when something that it rests on has changed.

use std::sync::Arc;

use conclave_crypto::digest::Digest;

use crate::member::Member;
use crate::memo::Function;
use crate::names::Height;
use crate::record::Record;
use crate::session::decide::Judgement;
use crate::session::weighed::Weighed;
use crate::time::Time;

/// A record that was proposed.
#[derive(Debug)]
pub(super) struct Considered {
    weighed: Arc<Weighed>,
    /// What it was judged on last, and when time alone may change that.
    seen: Option<((u64, bool, bool), Option<Time>)>,
    /// R24. Once valid, valid for the height.
    valid: bool,
}

impl Member {
    /// R24. What a proposed record is worth here; `None` if that cannot have changed since it was last asked.
    pub(super) fn weigh(
        &mut self,
        height: Height,
        digest: Digest,
        bytes: &[u8],
    ) -> Option<Judgement> {
        let decider = self.decider.as_ref();
        let polka = decider.is_some_and(|decider| decider.polka(&digest));
        let backed = decider.is_some_and(|decider| decider.is_backed(&digest));
        if !self.weighed.contains_key(&digest) {
            let weighed = self.unfold(height, digest, bytes);
            let considered = Considered {
                weighed,
                seen: None,
                valid: false,
            };
            self.weighed.insert(digest, considered);
        }
        if self.weighed.get(&digest)?.valid {
            return Some(Judgement::Valid);
        }
        let news = (self.news(height), polka, backed);
        let considered = self.weighed.get(&digest)?;
        if let Some((at, until)) = &considered.seen
            && *at == news
            && until.is_none_or(|until| !self.desk.due(until))
        {
            return None;
        }
        let weighed = Arc::clone(&considered.weighed);
        if let Some(record) = weighed.record.as_ref().filter(|_| weighed.follows) {
            self.doubt(height, digest, record);
        }
        let alarm = self.desk.set_alarm_aside();
        let judged = self.with_bench(height, |bench, desk| bench.judge(desk, &weighed, polka));
        let until = self.desk.alarm();
        if let Some(alarm) = alarm {
            self.desk.due(alarm);
        }
        let next = self.sessions.get_mut(&Height(height.0.saturating_add(1)));
        if judged == Some(Judgement::Open)
            && let (Some(next), Some(record)) = (next, &weighed.record)
        {
            next.doubt(&record.sharers_next, &weighed.ackers);
        }
        if let Some(considered) = self.weighed.get_mut(&digest) {
            considered.seen = Some((news, until));
            considered.valid = judged == Some(Judgement::Valid);
        }
        judged
    }

    /// Parses a record, asks the chain about it, and lets what it names take its slots.
    fn unfold(&mut self, height: Height, digest: Digest, bytes: &[u8]) -> Arc<Weighed> {
        let ledger = &self.ledger;
        let next = ledger.roster(Height(height.0.saturating_add(1)));
        let make = || Weighed::new(Record::from_bytes(bytes).ok(), ledger, next.as_ref());
        // The record names the head that it follows, and with it all that the chain says of it.
        let head = ledger.head_digest();
        let arguments: [&[u8]; 2] = [digest.as_bytes(), head.as_bytes()];
        let weighed = self.desk.memo.once(Function::Record, &arguments, make);
        if let Some(record) = weighed.record.as_ref().filter(|_| weighed.follows) {
            self.cite(height, record);
        }
        weighed
    }

    /// Counts what came in of the sessions that a decision rests on.
    fn news(&self, height: Height) -> u64 {
        let heights = height.0.saturating_sub(1)..=height.0.saturating_add(1);
        let sessions = self
            .sessions
            .range(Height(*heights.start())..=Height(*heights.end()));
        let counts = sessions.map(|(_, session)| session.news());
        let evidence = u64::try_from(self.desk.evidence.len()).unwrap_or(u64::MAX);
        counts.fold(evidence, u64::saturating_add)
    }
}
