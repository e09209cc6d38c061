//! Any bytes as votes, proposals and certificates that voters signed: an engine takes or refuses them and goes on.
//!
//! Each piece is the sender, the kind, the length, and as many bytes of body.
#![no_main]

use conclave_fuzz::{decider, key, pieces};
use conclave_protocol::decide::{Effect, Feed, record_digest, slot_of};
use conclave_protocol::envelope::{Envelope, Kind};
use conclave_protocol::letter::Letter;
use conclave_protocol::names::MemberId;
use conclave_protocol::time::Time;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let own = key(0);
    let (mut engine, sess) = decider();
    engine.start(Time(0), &[], &own).expect("an empty log");
    for ([sender, kind], body) in pieces(bytes) {
        let kind = [Kind::Vote, Kind::Proposal, Kind::Liveness][usize::from(kind % 3)];
        let sender = sender % 4;
        let body = body.to_vec();
        let signer = key(sender);
        let envelope = Envelope::sign(&signer, kind, sess, MemberId(sender.into()), 0, body);
        let _slot = slot_of(&envelope);
        engine.handle(Time(1), Feed::Letter(&Letter::of(envelope)), &own);
        while let Some(effect) = engine.poll() {
            if let Effect::Judge { record, .. } = effect {
                let record = record_digest(&record);
                engine.handle(
                    Time(1),
                    Feed::Judged {
                        record,
                        valid: true,
                    },
                    &own,
                );
            }
        }
    }
    if let Some(at) = engine.deadline() {
        engine.handle(at, Feed::Wake, &own);
    }
});
