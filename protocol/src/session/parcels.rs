//! Boxes on their way: a holder that cannot be reached directly gets its box through others, one that is away when it
//! is back. R11

use std::collections::BTreeMap;

use crate::desk::Desk;
use crate::envelope::Kind;
use crate::letter::Letter;
use crate::names::MemberId;
use crate::post::Slot;
use crate::session::Session;
use crate::time::{Span, Time};

/// Members that hand a box on to a holder that its dealer cannot reach.
const RELAYS: usize = 3;

/// Our boxes for holders that could not be reached, and did not acknowledge our dealing yet.
#[derive(Debug, Default)]
pub(crate) struct Parcels(BTreeMap<MemberId, Parcel>);

#[derive(Debug)]
struct Parcel {
    /// The ways that it went already.
    sent: Sent,
    /// When it was made, or went on its way last.
    since: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Not,
    Relayed,
    Published,
}

impl Session {
    /// R11. Sends a box to its holder, or keeps it for when there is a way.
    pub(super) fn send_box(&mut self, desk: &mut Desk, holder: MemberId, letter: &Letter) {
        match self.roster.key(holder).copied() {
            Some(key) if key == desk.key => {}
            Some(key) if desk.peers.contains(&key) => desk.send(key, letter.clone()),
            Some(_) | None => {
                let parcel = Parcel {
                    sent: Sent::Not,
                    since: desk.now,
                };
                self.dealings.parcels.0.insert(holder, parcel);
                self.hand_out(desk);
            }
        }
    }

    /// Whether a box for this holder waits for a way.
    pub(crate) fn has_parcel_for(&self, holder: MemberId) -> bool {
        self.dealings.parcels.0.contains_key(&holder)
    }

    /// R11. A box goes to its holder as soon as that can be reached; through others once it is heard of through others,
    /// and to all if it still does not acknowledge the dealing then.
    pub(crate) fn hand_out(&mut self, desk: &mut Desk) {
        if self.dealings.parcels.0.is_empty() {
            return;
        }
        let Some(me) = self.me(desk) else { return };
        let third = Span(desk.timers().setup.0.checked_div(3).unwrap_or(0));
        let half = Span(third.0.checked_div(2).unwrap_or(0));
        let own = self.roster.place(me);
        let mut parcels = core::mem::take(&mut self.dealings.parcels.0);
        parcels.retain(|holder, parcel| {
            let slot = Slot {
                kind: Kind::Seal,
                sender: me,
                holder: *holder,
            };
            let place = self.roster.place(*holder);
            let acks = &self.dealings.acks;
            let acked = place
                .zip(own)
                .is_some_and(|(place, own)| acks.has(place, own));
            let (Some(key), Some(held)) = (self.roster.key(*holder), self.post.held(slot)) else {
                return false;
            };
            if acked {
                return false;
            }
            let letter = &held.bytes;
            if desk.peers.contains(key) {
                desk.send(*key, letter.clone());
                return false;
            }
            let lost = desk.gone.lost(*holder).unwrap_or_default();
            let heard = desk.heard.get(holder).copied().filter(|at| *at > lost);
            match parcel.sent {
                Sent::Not if heard.is_some() => {
                    let behind = self.roster.behind(key);
                    let near = behind.into_iter().filter(|key| desk.peers.contains(key));
                    for relay in near.take(RELAYS).collect::<Vec<_>>() {
                        desk.send(relay, letter.clone());
                    }
                    (parcel.sent, parcel.since) = (Sent::Relayed, desk.now);
                    desk.due(parcel.since + third);
                }
                // It speaks, and it does not have it.
                Sent::Relayed
                    if desk.due(parcel.since + third)
                        && heard.is_some_and(|at| at >= parcel.since + half) =>
                {
                    desk.publish(letter.clone());
                    parcel.sent = Sent::Published;
                }
                Sent::Not | Sent::Relayed | Sent::Published => {}
            }
            true
        });
        self.dealings.parcels.0 = parcels;
    }

    /// R11. Hands on a box that came from its dealer, if its holder can be reached from here.
    pub(crate) fn pass_on(&self, desk: &mut Desk, letter: &Letter) {
        let Ok(slot) = crate::post::slot_of(letter) else {
            return;
        };
        let key = self.roster.key(slot.holder);
        if let Some(key) = key.filter(|key| desk.peers.contains(key)).copied() {
            desk.send(key, letter.clone());
        }
    }
}
