//! R13. Whether a session is set up: looked for only when something has come in, and first where it failed last.

use conclave_crypto::sign::PublicKey;

use crate::desk::Desk;
use crate::message::Acked;
use crate::names::MemberId;
use crate::params;
use crate::places::Places;
use crate::session::Session;
use crate::session::advertise::Advert;

/// What was found of the set-up last.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    /// The keys, dealings and boxes that were in by then, and the acknowledgements.
    at: Option<(u64, u64)>,
    /// Everybody whose keys are in has dealt and acknowledged every dealing.
    complete: bool,
    /// A dealing that was not acknowledged by all.
    open: Option<MemberId>,
    asking: Asking,
}

/// How often asking others for what is lacking was in vain.
#[derive(Debug, Default)]
struct Asking {
    /// The envelopes taken when it was last asked.
    taken: u64,
    /// Questions since then.
    vain: u32,
    /// Turns passed over since the last question.
    passed: u32,
    /// Questions so far: whose turn it is to be asked. Each session counts its own, or one that is asked for in every
    /// fourth turn would ask the same of four peers each time.
    turn: usize,
}

/// The most turns in a row that are passed over.
const VAIN_MAX: u32 = 3;

impl Session {
    /// R13. Everybody whose keys are in has dealt and acknowledged every dealing, as [`Self::count_set_up`] found.
    pub(crate) fn is_set_up(&self, desk: &mut Desk) -> bool {
        let known = self.adverts.known.len();
        known >= params::survivors_min(&desk.charter, self.roster.len())
            && self.may_deal(desk)
            && self.ready.complete
    }

    /// R50. Whether all members have dealt, and acknowledged all: nothing of the set-up can be lacking.
    pub(crate) fn is_all_set_up(&self) -> bool {
        self.ready.complete && self.adverts.known.len() == self.roster.len()
    }

    /// R50. Whom to ask for this session now; nobody in some turns, if the last questions brought nothing.
    pub(crate) fn asks_now(&mut self, peers: &[PublicKey]) -> Option<PublicKey> {
        let (taken, asking) = (self.taken, &mut self.ready.asking);
        if asking.taken != taken {
            (asking.taken, asking.vain) = (taken, 0);
        } else if asking.passed < asking.vain {
            asking.passed = asking.passed.saturating_add(1);
            return None;
        }
        asking.passed = 0;
        asking.vain = asking.vain.saturating_add(1).min(VAIN_MAX);
        let turn = asking.turn.checked_rem(peers.len())?;
        asking.turn = turn.saturating_add(1);
        peers.get(turn).copied()
    }

    /// R13. Finds out whether all is dealt and acknowledged, if anything has come in.
    pub(crate) fn count_set_up(&mut self) {
        let at = Some((self.dealings.news, self.dealings.acked));
        if self.ready.at == at {
            return;
        }
        self.ready.at = at;
        self.ready.complete = false;
        let known = &self.adverts.known;
        if self.dealings.deals.len() < known.len() {
            return;
        }
        let all: Places = if known.len() == self.roster.len() {
            (0..known.len()).collect()
        } else {
            let places = known.keys().filter_map(|id| self.roster.place(*id));
            places.collect()
        };
        let open = |(dealer, advert): (&MemberId, &Advert)| {
            let acked = self.ackers(*dealer, advert);
            (!all.within(&acked)).then_some(*dealer)
        };
        // From where it failed last, round to there.
        let from = self.ready.open.unwrap_or(MemberId(0));
        let mut round = known.range(from..).chain(known.range(..from));
        self.ready.open = round.find_map(open);
        self.ready.complete = self.ready.open.is_none();
    }

    /// Who acknowledged the dealing of a member that is held under its keys; nobody while none is held.
    fn ackers(&self, dealer: MemberId, advert: &Advert) -> Places {
        let deal = self.dealings.deals.get(&dealer).map(|dealt| dealt.digest);
        let pair = self.roster.place(dealer).zip(deal);
        pair.map_or_else(Places::default, |(place, deal)| {
            let acked = Acked::of(dealer, &advert.digest, &deal);
            self.dealings.acks.holders(place, &acked)
        })
    }
}
