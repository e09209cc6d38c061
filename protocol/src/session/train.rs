//! Train: the engine gets the adapter and gives back a delta.

use std::collections::BTreeMap;

use conclave_crypto::digest::Digest;

use crate::desk::Desk;
use crate::envelope::Kind;
use crate::floats::Floats;
use crate::names::{Factor, MemberId, Round, SumId};
use crate::output::Order;
use crate::places::Places;
use crate::post::Slot;
use crate::record::Sharer;
use crate::session::Session;
use crate::session::open::Outcome;
use crate::session::submit::Committed;
use crate::time::Time;

/// What the sharers of a height train.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) round: Round,
    pub(crate) factor: Factor,
    /// Coordinates of the factor.
    pub(crate) coordinates: usize,
    /// Who dealt, by the record before.
    pub(crate) sharers: BTreeMap<MemberId, Sharer>,
    /// The places of those that acknowledged each of them.
    pub(crate) ackers: Vec<Places>,
    /// When the record before was decided here.
    pub(crate) since: Time,
    /// The adapter to start from and the masking context over it, once the adapter is known.
    pub(crate) terms: Option<Terms>,
    /// When that became known here.
    pub(crate) ready: Option<Time>,
    pub(crate) ordered: bool,
    pub(crate) failed: bool,
    /// Optimiser steps done and ordered.
    pub(crate) progress: (u32, u32),
}

impl Work {
    /// The masking context, once it is known.
    pub(crate) fn sid(&self) -> Option<SumId> {
        self.terms.as_ref().map(|terms| terms.sid)
    }

    /// Whether a Commit announces a whole vector of this height under its masking context.
    pub(crate) fn fits(&self, commit: &Committed) -> bool {
        let length = u64::try_from(self.coordinates.saturating_mul(4));
        length == Ok(commit.length) && self.sid() == Some(commit.sid)
    }
}

/// The adapter that a height trains from.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) sid: SumId,
    pub(crate) adapter: Floats,
    pub(crate) digest: Digest,
}

impl Session {
    /// Starts the work that the record before fixed: the recorded keys and dealings count, whatever came first.
    pub(crate) fn start_work(
        &mut self,
        desk: &Desk,
        round: Round,
        factor: Factor,
        sharers: &[Sharer],
    ) {
        for sharer in sharers {
            self.post
                .pin(Slot::of(Kind::KeyAd, sharer.member), sharer.key_ad);
            self.post
                .pin(Slot::of(Kind::Deal, sharer.member), sharer.deal);
        }
        self.submissions.lacking = sharers.iter().map(|sharer| sharer.member).collect();
        let places = |sharer: &Sharer| self.roster.places(&sharer.ackers).unwrap_or_default();
        self.work = Some(Work {
            round,
            factor,
            coordinates: desk.layout.count(factor),
            sharers: sharers
                .iter()
                .map(|sharer| (sharer.member, sharer.clone()))
                .collect(),
            ackers: sharers.iter().map(places).collect(),
            since: desk.now,
            terms: None,
            ready: None,
            ordered: false,
            failed: false,
            progress: (0, desk.charter.round.local_steps),
        });
    }

    /// R14. A sharer whose secrets are unspent trains from the result of the height before.
    pub(crate) fn train(&mut self, desk: &mut Desk) {
        let ordered = |work: &Work| work.ordered || work.failed;
        if self.work.as_ref().is_none_or(ordered) || !self.may_submit(desk) {
            return;
        }
        let Some(work) = &mut self.work else { return };
        let Some(terms) = &work.terms else { return };
        work.ordered = true;
        let seed = Digest::of(
            "conclave/v1/batches",
            &[self.sess.0.as_bytes(), desk.key.as_bytes()],
        );
        let order = Order::Train {
            height: self.height,
            round: work.round,
            rounds: desk.charter.round.rounds,
            factor: work.factor,
            adapter: terms.adapter.clone(),
            digest: terms.digest,
            local_steps: desk.charter.round.local_steps,
            seed: seed.0,
        };
        desk.tray.push_back(crate::output::Output::Order(order));
    }

    /// An adapter stands in its table: what this height trains from, or opened, is held as it stands there.
    pub(crate) fn settle_adapter(&mut self, name: &Digest, adapter: &Floats) {
        let terms = self.work.as_mut().and_then(|work| work.terms.as_mut());
        if let Some(terms) = terms.filter(|terms| terms.digest == *name) {
            terms.adapter = adapter.clone();
        }
        if let Some(Outcome::Opened {
            digest,
            adapter: held,
        }) = &mut self.opening.result
            && digest == name
        {
            *held = adapter.clone();
        }
    }

    /// R14. Whether we are a sharer under the recorded dealing, with unspent secrets.
    pub(crate) fn may_submit(&self, desk: &Desk) -> bool {
        let Some(me) = self
            .speaker(desk)
            .filter(|_| self.adverts.secrets.is_some())
        else {
            return false;
        };
        let sharer = self.work.as_ref().and_then(|work| work.sharers.get(&me));
        let ours = sharer.is_some_and(|sharer| {
            self.recorded_advert(sharer).is_some() && self.recorded_deal(sharer)
        });
        ours && !self.said(desk, Kind::Commit)
    }

    /// The keys of a sharer, if we hold the envelope that the record names.
    pub(crate) fn recorded_advert(&self, sharer: &Sharer) -> Option<&super::advertise::Advert> {
        let advert = self.adverts.known.get(&sharer.member);
        advert.filter(|advert| advert.digest == sharer.key_ad)
    }

    /// Whether we hold the dealing that the record names.
    pub(crate) fn recorded_deal(&self, sharer: &Sharer) -> bool {
        let dealt = self.dealings.deals.get(&sharer.member);
        dealt.is_some_and(|dealt| dealt.digest == sharer.deal)
    }
}
