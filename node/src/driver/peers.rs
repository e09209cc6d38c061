//! The peers of a node, as `GET /v1/peers` shows them: connection, last word, bytes, and what was refused of each.

use std::collections::BTreeMap;
use std::time::Duration;

use conclave_crypto::sign::PublicKey;
use conclave_protocol::ledger::Ledger;
use conclave_protocol::names::{Height, MemberId};
use conclave_protocol::refusal::{Refusal, Refusals};
use conclave_protocol::time::Time;
use serde_json::{Map, Value, json};

use crate::network::Traffic;

/// What this node has seen of everybody that it talks to.
#[derive(Debug, Default)]
pub struct Peers(BTreeMap<PublicKey, Seen>);

/// What was seen of one peer.
#[derive(Debug, Default)]
struct Seen {
    /// Since when a connection stands, if one does.
    connected: Option<Time>,
    /// When it handed over something last.
    heard: Option<Time>,
    messages: u64,
    refused: Refusals,
    addresses: Vec<String>,
}

impl Peers {
    /// How many are connected.
    pub fn connected(&self) -> usize {
        self.0
            .values()
            .filter(|seen| seen.connected.is_some())
            .count()
    }

    /// A connection stands.
    pub(super) fn meet(&mut self, peer: PublicKey, now: Time, addresses: Vec<String>) {
        let seen = self.0.entry(peer).or_default();
        seen.connected = Some(now);
        seen.addresses = addresses;
    }

    /// The last connection is gone.
    pub(super) fn lose(&mut self, peer: &PublicKey) {
        if let Some(seen) = self.0.get_mut(peer) {
            seen.connected = None;
        }
    }

    /// It is dismissed.
    pub(super) fn forget(&mut self, peer: &PublicKey) {
        self.0.remove(peer);
    }

    /// It handed something over.
    pub(super) fn hear(&mut self, peer: &PublicKey, ledger: &Ledger, now: Time) {
        if let Some(seen) = self.of(peer, ledger) {
            seen.heard = Some(now);
            seen.messages += 1;
        }
    }

    /// What it handed over was refused.
    pub(super) fn refuse(&mut self, peer: &PublicKey, ledger: &Ledger, refusal: Refusal) {
        if let Some(seen) = self.of(peer, ledger) {
            seen.refused.count(refusal);
        }
    }

    /// What was seen of a member, whose first words may come before the news that it is connected; strangers (guests
    /// without an invitation) are remembered only once they were met.
    fn of(&mut self, peer: &PublicKey, ledger: &Ledger) -> Option<&mut Seen> {
        if ledger.member(peer).is_some() {
            Some(self.0.entry(*peer).or_default())
        } else {
            self.0.get_mut(peer)
        }
    }

    /// In a few words, how this node sees a peer that is missed.
    pub(super) fn sight(&self, peer: &PublicKey, now: Time) -> String {
        let seen = self.0.get(peer);
        let heard = seen.and_then(|seen| seen.heard);
        let heard = heard.map_or_else(
            || "nothing was ever heard of it".to_owned(),
            |heard| format!("last heard {} s ago", (now - heard).0 / 1000),
        );
        if seen.is_some_and(|seen| seen.connected.is_some()) {
            format!("connected, {heard}")
        } else {
            format!("not connected, {heard}")
        }
    }

    /// The object of `GET /v1/peers`: everybody that the ledger knows, and newcomers, without this node itself.
    pub(super) fn show(
        &self,
        ledger: &Ledger,
        me: &PublicKey,
        now: Time,
        strangers: u64,
        traffic: impl Fn(&PublicKey) -> Traffic,
    ) -> Value {
        let people = (0..)
            .map(MemberId)
            .map_while(|id| ledger.person(id).map(|person| (id, person)));
        let known = people.map(|(id, person)| {
            let mut row = self.row(&person.key, now, traffic(&person.key));
            row.insert("id".to_owned(), json!(id.0));
            row.insert("name".to_owned(), json!(person.name));
            row.insert("standing".to_owned(), json!(standing(ledger, id)));
            (person.key, row)
        });
        let newcomers = self.0.keys().filter(|key| ledger.member(key).is_none());
        let newcomers = newcomers.map(|key| {
            let mut row = self.row(key, now, traffic(key));
            row.insert("standing".to_owned(), json!("newcomer"));
            (*key, row)
        });
        let rows = known.chain(newcomers).filter(|(key, _)| key != me);
        json!({
            "peers": rows.map(|(_, row)| Value::Object(row)).collect::<Vec<_>>(),
            "strangers": strangers,
        })
    }

    fn row(&self, peer: &PublicKey, now: Time, traffic: Traffic) -> Map<String, Value> {
        let nothing = Seen::default();
        let seen = self.0.get(peer).unwrap_or(&nothing);
        let since =
            |at: Option<Time>| at.map(|at| Duration::from_millis((now - at).0).as_secs_f64());
        let causes: Map<String, Value> = seen
            .refused
            .causes()
            .map(|(cause, count)| (cause.word().to_owned(), json!(count)))
            .collect();
        let row = json!({
            "member": peer.to_string(),
            "id": null,
            "name": null,
            "standing": null,
            "connected": seen.connected.is_some(),
            "connected_seconds": since(seen.connected),
            "last_heard_seconds": since(seen.heard),
            "messages": seen.messages,
            "refused": seen.refused.total(),
            "refused_by_cause": causes,
            "bytes_sent": traffic.sent,
            "bytes_received": traffic.received,
            "addresses": seen.addresses,
        });
        match row {
            Value::Object(row) => row,
            _ => Map::new(),
        }
    }
}

/// What somebody in the members table is at present.
fn standing(ledger: &Ledger, id: MemberId) -> &'static str {
    let next = ledger.next();
    let after = Height(next.0.saturating_add(1));
    let within = |height| {
        ledger
            .roster(height)
            .is_some_and(|roster| roster.contains(id))
    };
    match (ledger.is_proved(id), within(next), within(after)) {
        (true, _, _) => "excluded",
        (false, true, true) => "member",
        (false, true, false) => "leaving",
        (false, false, true) => "entering",
        (false, false, false) => "former",
    }
}

#[cfg(test)]
mod tests {
    use conclave_protocol::sim::Terms;

    use super::*;

    #[test]
    fn a_member_is_remembered_before_it_was_met_and_a_stranger_is_not() {
        let terms = Terms::new(7, 4);
        let (member, stranger) = (terms.identity(1).public(), terms.identity(4).public());
        let ledger = Ledger::new(terms.charter(), None);
        let mut peers = Peers::default();
        for key in [&member, &stranger] {
            peers.hear(key, &ledger, Time(5));
            peers.refuse(key, &ledger, Refusal::Malformed);
        }
        assert_eq!(peers.0.keys().collect::<Vec<_>>(), [&member]);
        let seen = &peers.0[&member];
        assert_eq!((seen.messages, seen.refused.total()), (1, 1));
        // To meet it later forgets nothing.
        peers.meet(member, Time(6), Vec::new());
        assert_eq!(peers.0[&member].refused.total(), 1);
        assert_eq!(peers.connected(), 1);
    }
}
