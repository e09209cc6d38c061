//! Any bytes as messages that members signed, of any kind: a member takes or refuses them and goes on.
//!
//! Each piece is the sender (its upper half: the session and the sequence number), the kind, the length, and as many
//! bytes of body.
#![no_main]

use conclave_fuzz::{member, pieces};
use conclave_protocol::envelope::{Envelope, Kind};
use conclave_protocol::input::Input;
use conclave_protocol::letter::Letter;
use conclave_protocol::message;
use conclave_protocol::names::{Height, MemberId, SessId};
use conclave_protocol::output::Stored;
use conclave_protocol::time::Time;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (mut member, terms) = member(Stored::new()).expect("an empty store");
    for place in 1..4 {
        let peer = terms.identity(place).public();
        member.handle(Time(0), Input::Connected { peer });
    }
    let session = |member: &conclave_protocol::member::Member, number: u64| {
        let session = member.ledger().session_id(Height(number));
        session.unwrap_or(SessId(conclave_crypto::digest::Digest::ZERO))
    };
    let mut now = Time(1);
    for ([sender, kind], body) in pieces(bytes) {
        let (place, session_number, seq) = (sender % 4, (sender >> 2) % 4, sender >> 4);
        let Ok(kind) = message::decode::<Kind>(&u32::from(kind % 20).to_le_bytes()) else {
            continue;
        };
        let key = terms.identity(place.into());
        let sess = session(&member, session_number.into());
        let id = MemberId(place.into());
        let envelope = Envelope::sign(&key, kind, sess, id, seq.into(), body.to_vec());
        let (from, bytes) = (key.public(), Letter::of(envelope));
        member.handle(now, Input::Received { from, bytes });
        while member.poll().is_some() {}
        if seq % 4 == 3 {
            now = member.deadline().unwrap_or(now).max(now);
            member.handle(now, Input::Wake);
            while member.poll().is_some() {}
        }
    }
});
