//! What records do to members: silence, conviction, absence, leaving, and the end of a job.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use conclave_crypto::digest::Digest;

use super::{Ledger, Start};
use crate::decide::Certificate;
use crate::envelope::{Envelope, Kind};
use crate::evidence::Evidence;
use crate::message::{self, Leave};
use crate::names::{Height, MemberId};
use crate::record::{Cause, Entry, Previous, Record, Sharer, Survivors};
use crate::sim::Terms;

/// A chain whose records are made by hand; the certificates are not looked at by `append`.
struct Chain {
    terms: Terms,
    ledger: Ledger,
}

impl Chain {
    fn new(founders: usize) -> Self {
        let mut terms = Terms::new(1, founders);
        terms.rounds = 90;
        terms.absent_rounds = 9;
        let start = Start {
            layout: Terms::layout(),
            adapter: Digest([7; 32]),
        };
        let ledger = Ledger::new(terms.charter(), Some(start));
        Self { terms, ledger }
    }

    /// The next record, with these sharers and nothing else.
    fn record(&self, sharers: &[u32]) -> Record {
        let roster = self
            .ledger
            .roster(Height(self.ledger.next().0 + 1))
            .unwrap();
        let ackers: Vec<_> = roster.ids().collect();
        let sharers_next = sharers.iter().map(|id| Sharer {
            member: MemberId(*id),
            key_ad: Digest([1; 32]),
            deal: Digest([2; 32]),
            ackers: ackers.clone(),
        });
        let mut record = Record {
            epoch: 0,
            height: self.ledger.next(),
            before: self.ledger.head_digest(),
            survivors: None,
            sharers_next: sharers_next.collect(),
            joins: Vec::new(),
            leaves: Vec::new(),
            members_after_next: Vec::new(),
            previous: Previous::None,
            evidence: Vec::new(),
        };
        record.members_after_next = self.ledger.members_after_next(&record).unwrap();
        record
    }

    /// All sharers of the height survive, over this certified adapter.
    fn survive(&self, record: &mut Record) {
        let adapter = match record.previous {
            Previous::Opened(adapter) => adapter,
            Previous::None | Previous::Spent { .. } => self.ledger.certified().unwrap(),
        };
        let sid = self.ledger.sum_id(record.height, &adapter).unwrap();
        let sharers = self.ledger.sharer_ids(record.height);
        let commits = sharers
            .into_iter()
            .map(|id| (id, Digest([3; 32])))
            .collect();
        record.survivors = Some(Survivors { sid, commits });
        record.members_after_next = self.ledger.members_after_next(record).unwrap();
    }

    fn append(&mut self, record: &Record) -> Result<(), String> {
        let bytes = record.to_bytes();
        let certificate = Certificate {
            height: record.height,
            round: 0,
            record: Record::digest_of(&bytes),
            signatures: Vec::new(),
        };
        let entry = Entry::new(&bytes, certificate).unwrap();
        self.ledger.append(entry).map_err(|broken| broken.what)
    }

    /// A height whose sum is called for, and then spent for this cause by the record after it.
    fn spend(&mut self, sharers: &[u32], cause: Cause, silent: &[u32]) -> Result<(), String> {
        let mut called = self.record(sharers);
        self.survive(&mut called);
        self.append(&called)?;
        let mut spent = self.record(&[]);
        spent.previous = Previous::Spent {
            cause,
            culprits: Vec::new(),
            silent: silent.iter().copied().map(MemberId).collect(),
        };
        spent.members_after_next = self.ledger.members_after_next(&spent).unwrap();
        self.append(&spent)
    }

    fn leave(&self, member: u32) -> Envelope {
        let height = self.ledger.head();
        let body = Leave {
            head: self.ledger.head_digest(),
            head_height: height,
        };
        let key = self.terms.identity(usize::try_from(member).unwrap());
        let sess = self.ledger.session_id(height).unwrap();
        let body = message::encode(&body);
        Envelope::sign(&key, Kind::Leave, sess, MemberId(member), 0, body)
    }
}

const ALL: [u32; 5] = [0, 1, 2, 3, 4];

// R62: two heights the first time, four the second; the others go on.
#[test]
fn the_silent_do_not_share_for_a_while() {
    let mut chain = Chain::new(5);
    chain.append(&chain.record(&ALL)).unwrap();
    let mut outs = Vec::new();
    for _ in 0..2 {
        chain.spend(&ALL, Cause::Withheld, &[3]).unwrap();
        let mut out = 0;
        while chain.append(&chain.record(&ALL)).is_err() {
            chain.append(&chain.record(&[0, 1, 2, 4])).unwrap();
            out += 1;
        }
        outs.push(out);
    }
    // The height after the Spent record itself counts too: nobody shared in it here.
    assert_eq!(outs, [1, 3]);
    let nobody = chain.spend(&ALL, Cause::Range, &[3]);
    assert_eq!(nobody.unwrap_err(), "it spends what cannot be spent");
}

// R65: two sums out of range in a row end the job; one that was opened in between does not.
#[test]
fn two_sums_out_of_range_halt_the_job() {
    let mut chain = Chain::new(5);
    chain.append(&chain.record(&ALL)).unwrap();
    chain.spend(&ALL, Cause::Range, &[]).unwrap();
    chain.append(&chain.record(&ALL)).unwrap();
    let mut called = chain.record(&ALL);
    chain.survive(&mut called);
    chain.append(&called).unwrap();
    let mut opened = chain.record(&ALL);
    opened.previous = Previous::Opened(Digest([9; 32]));
    chain.append(&opened).unwrap();
    assert!(!chain.ledger.over());
    chain.spend(&ALL, Cause::Range, &[]).unwrap();
    assert!(!chain.ledger.halted());
    chain.append(&chain.record(&ALL)).unwrap();
    chain.spend(&ALL, Cause::Range, &[]).unwrap();
    assert!(chain.ledger.halted() && chain.ledger.over());
    let more = chain.append(&chain.record(&[]));
    assert_eq!(more.unwrap_err(), "the job was halted before it");
    assert_eq!(chain.ledger.certified(), Some(Digest([9; 32])));
}

// R64: what a record proves against a member keeps it out for good; what proves nothing breaks the record.
#[test]
fn evidence_convicts_and_removes() {
    let mut chain = Chain::new(5);
    let sess = chain.ledger.session_id(Height(2)).unwrap();
    let key = chain.terms.identity(4);
    let said = |word: u8| Envelope::sign(&key, Kind::KeyAd, sess, MemberId(4), 0, vec![word; 68]);
    let evidence = Evidence::of(&said(1), &said(2)).unwrap();
    let with = |chain: &Chain, evidence: Vec<Evidence>, sharers: &[u32]| {
        let mut record = chain.record(sharers);
        record.evidence = evidence;
        record.members_after_next = chain.ledger.members_after_next(&record).unwrap();
        record
    };
    let mut forged = evidence.clone();
    forged.first.sender = MemberId(3);
    forged.second.sender = MemberId(3);
    let wrong = with(&chain, vec![forged], &[0, 1, 2, 4]);
    assert_eq!(
        chain.append(&wrong).unwrap_err(),
        "its evidence proves nothing"
    );
    let shares = with(&chain, vec![evidence.clone()], &ALL);
    let error = chain.append(&shares).unwrap_err();
    assert_eq!(error, "its sharers are not acknowledged members");
    let right = with(&chain, vec![evidence.clone()], &[0, 1, 2, 3]);
    chain.append(&right).unwrap();
    assert!(chain.ledger.is_convicted(MemberId(4)));
    let left = chain.ledger.roster(Height(3)).unwrap();
    assert_eq!((left.len(), left.contains(MemberId(4))), (4, false));
    let again = with(&chain, vec![evidence], &[0, 1, 2, 3]);
    assert_eq!(
        chain.append(&again).unwrap_err(),
        "its evidence proves nothing"
    );
}

// R43 R66: leavers go before the absent, nobody beyond the floor, and only in their own words.
#[test]
fn leaving_is_released_while_enough_stay() {
    let mut chain = Chain::new(6);
    chain.append(&chain.record(&[])).unwrap();
    let with = |chain: &Chain, leaves: Vec<Envelope>| {
        let mut record = chain.record(&[]);
        record.leaves = leaves;
        record
    };
    let three = [1, 2, 4].map(|id| chain.leave(id)).to_vec();
    let record = with(&chain, three.clone());
    let error = chain.ledger.members_after_next(&record).unwrap_err();
    assert_eq!(error, "a Leave would leave fewer than 4 members");
    let mut forged = with(&chain, three[..2].to_vec());
    forged.leaves[1].signature.0[0] ^= 1;
    assert!(chain.ledger.members_after_next(&forged).is_err());
    let mut two = with(&chain, three[..2].to_vec());
    two.members_after_next = chain.ledger.members_after_next(&two).unwrap();
    assert_eq!(two.members_after_next, [0, 3, 4, 5].map(MemberId));
    chain.append(&two).unwrap();
    let late = with(&chain, three[..1].to_vec());
    assert_eq!(
        chain.ledger.members_after_next(&late).unwrap_err(),
        "a Leave: the sender is no member"
    );
}
