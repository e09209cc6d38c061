//! What others tell a member of what it said before.

use conclave_crypto::digest::Digest;

use super::net::{Net, identity};
use crate::claim::Claim;
use crate::envelope::{Envelope, Kind};
use crate::input::{Input, Verdict};
use crate::letter::Letter;
use crate::message::{self, Heartbeat, Question, Recall, Recalled};
use crate::names::{Height, MemberId};
use crate::output::Phase;

// R60: a Recall that nobody asked for, or of what no store holds, silences nobody.
#[test]
fn a_recall_silences_only_by_what_outbox_and_log_would_hold() {
    let mut net = Net::new(4, 1, 25);
    for index in 0..4 {
        net.start(index);
    }
    let beat = Heartbeat {
        height: Height(1),
        phase: Phase::Train,
        done: 0,
        of: 0,
    };
    let sess = net.member(0).ledger().session_id(Height(1)).unwrap();
    let own = Envelope::sign(
        &identity(0),
        Kind::Heartbeat,
        sess,
        MemberId(0),
        9,
        message::encode(&beat),
    );
    let claims = vec![Recalled {
        height: Height(1),
        before: Digest::ZERO,
        claim: Claim::brief(&Letter::of(own)).unwrap(),
    }];
    let body = message::encode(&Recall {
        answers: None,
        claims,
    });
    let letter = Envelope::sign(&identity(3), Kind::Recall, sess, MemberId(3), 1, body).to_bytes();
    let from = identity(3).public();
    for settled in [false, true] {
        if settled {
            net.run(&[0, 1, 2, 3], 300);
        }
        let now = net.now;
        let input = Input::Received {
            from,
            bytes: letter.clone().into(),
        };
        let verdict = net.nodes[0].member.as_mut().unwrap().handle(now, input);
        assert_ne!(verdict, Verdict::Accepted, "settled: {settled}");
        assert_eq!(net.member(0).status().warnings, 0, "settled: {settled}");
    }
    net.check_sums(0);
}

// R60: through others only answers to the own question count: an old one, or one to another, is handed on.
#[test]
fn an_old_answer_that_comes_through_others_settles_nobody() {
    let mut net = Net::new(4, 1, 25);
    net.start(0);
    let sess = net.member(0).ledger().session_id(Height(1)).unwrap();
    let question = net.member(0).desk.memory.question();
    let old = question.map(|byte| !byte);
    let now = net.now;
    let mut told = |teller: usize, through: usize, answers: Option<Question>| {
        let claims = Vec::new();
        let body = message::encode(&Recall { answers, claims });
        let id = MemberId(u32::try_from(teller).unwrap());
        let letter = Envelope::sign(&identity(teller), Kind::Recall, sess, id, 1, body);
        let input = Input::Received {
            from: identity(through).public(),
            bytes: letter.to_bytes().into(),
        };
        let member = net.nodes[0].member.as_mut().unwrap();
        let verdict = member.handle(now, input);
        (verdict, member.desk.memory.has_answered(id))
    };
    assert_eq!(told(2, 1, Some(old)), (Verdict::Accepted, false));
    let (verdict, counted) = told(2, 1, None);
    assert!(matches!(verdict, Verdict::Refused(_)) && !counted);
    assert_eq!(told(2, 1, Some(question)), (Verdict::Accepted, true));
    assert_eq!(told(3, 3, None), (Verdict::Accepted, true));
}
