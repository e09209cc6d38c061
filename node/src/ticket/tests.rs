//! Tickets survive pasting, and nothing else passes for one.

use conclave_crypto::sign::IdentityKey;
use conclave_protocol::charter::{
    Adapter, Admission, Aggregation, Federation, Founder, Method, Model, Rounds, Timers,
};
use conclave_protocol::names::MemberId;

use super::*;
use crate::keys;

const DAY_MS: u64 = 24 * 3600 * 1000;

fn founder(seed: u8) -> IdentityKey {
    IdentityKey::from_bytes(&[seed; 32])
}

/// A charter that is good but for having no model.
pub(crate) fn charter(nonce: u8) -> Charter {
    let members = (1..=3).map(|seed| Founder {
        name: format!("member {seed}"),
        key: founder(seed).public(),
    });
    let charter = Charter {
        federation: Federation {
            name: "clinics".to_owned(),
            protocol: 1,
            nonce: [nonce; 32],
        },
        model: Model {
            digest: Digest([4; 32]),
            architecture: "llama".to_owned(),
        },
        adapter: Adapter {
            method: Method::default(),
            seed: 1,
        },
        round: Rounds {
            rounds: 6,
            local_steps: 20,
            timers: Timers::default(),
        },
        aggregation: Aggregation::default(),
        admission: Admission::Invite,
        members: members.collect(),
    };
    charter.checked().unwrap()
}

fn ticket(invitee: Option<conclave_crypto::sign::PublicKey>, expires: u64) -> Ticket {
    let charter = charter(9);
    let nonce = [5; 16];
    Ticket {
        invite: Invite::sign(
            &founder(1),
            charter.digest(),
            MemberId(0),
            nonce,
            invitee,
            1,
            expires,
        ),
        addresses: vec!["/ip4/192.0.2.7/tcp/4001".to_owned()],
        charter,
    }
}

fn wishes() -> Wishes {
    Wishes {
        name: "oslo".to_owned(),
        data: Some("/rows.jsonl".into()),
        model: None,
    }
}

#[test]
fn a_ticket_is_one_word_and_reads_back_though_it_was_wrapped() {
    let made = ticket(None, 0);
    let text = made.to_text();
    assert!(text.chars().all(|c| c.is_ascii_alphanumeric()), "{text}");
    assert_eq!(Ticket::parse(&text).unwrap(), made);
    let (left, right) = text.split_at(100);
    assert_eq!(
        Ticket::parse(&format!(" {left}\n  {right}\n")).unwrap(),
        made
    );
}

#[test]
fn what_is_cut_changed_or_foreign_is_refused_in_one_sentence() {
    let text = ticket(None, 0).to_text();
    assert!(matches!(Ticket::parse("hello"), Err(TicketError::Foreign)));
    for length in [
        PREFIX.len(),
        PREFIX.len() + 6,
        text.len() / 2,
        text.len() - 1,
        text.len() - 2,
    ] {
        assert!(
            matches!(Ticket::parse(&text[..length]), Err(TicketError::Torn)),
            "{length}"
        );
    }
    for place in (PREFIX.len()..text.len()).step_by(7) {
        let mut changed = text.clone().into_bytes();
        changed[place] = if changed[place] == b'0' { b'1' } else { b'0' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(
            matches!(Ticket::parse(&changed), Err(TicketError::Torn)),
            "{place}"
        );
    }
    // A sound checksum does not make another charter the invitation's.
    let mut other = ticket(None, 0);
    other.charter = charter(8);
    let said = Ticket::parse(&other.to_text()).unwrap_err().to_string();
    assert!(said.contains("another charter"), "{said}");
}

#[test]
fn sound_words_of_odd_contents_are_refused_in_one_sentence() {
    let word_of = |charter: &[u8]| {
        let mut compressed = ZlibEncoder::new(Vec::new(), Compression::best());
        compressed.write_all(charter).unwrap();
        word(&message::encode(&Contents {
            invite: ticket(None, 0).invite,
            addresses: Vec::new(),
            charter: compressed.finish().unwrap(),
        }))
    };
    let most = usize::try_from(CHARTER_MAX).unwrap();
    for (length, long) in [(most, false), (most + 1, true), (40 * most, true)] {
        let said = Ticket::parse(&word_of(&vec![b'#'; length]))
            .unwrap_err()
            .to_string();
        assert_eq!(
            said.contains("its charter is too long"),
            long,
            "{length}: {said}"
        );
    }
    let digits = ticket(None, 0).to_text();
    let contents = hex::decode(&digits[PREFIX.len() + 2 * CHECKSUM..]).unwrap();
    for length in 0..contents.len() {
        let said = Ticket::parse(&word(&contents[..length]))
            .unwrap_err()
            .to_string();
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    for place in 0..contents.len() {
        let mut changed = contents.clone();
        changed[place] ^= 0x41;
        // A byte of the signature or the addresses may change: what is read can be written then.
        if let Ok(read) = Ticket::parse(&word(&changed)) {
            assert_eq!(Ticket::parse(&read.to_text()).unwrap(), read, "{place}");
        }
    }
}

#[test]
fn what_is_announced_comes_before_where_a_node_listens() {
    let key = founder(1).public();
    let parse = |texts: &[&str]| -> Vec<libp2p::Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    let near = parse(&["/ip4/127.0.0.1/tcp/4001"]);
    let far = parse(&["/ip4/127.0.0.1/tcp/4001", "/ip4/192.0.2.7/tcp/4001"]);
    let announced = parse(&["/dns4/clinic.example/tcp/4001"]);
    let nowhere = parse(&["/ip4/0.0.0.0/tcp/0"]);
    let first = |announced: &[_], listening: &[_]| callable(announced, listening, &key).join(" ");
    assert!(first(&announced, &far).starts_with("/dns4/clinic.example/tcp/4001/p2p/"));
    assert!(!first(&announced, &far).contains("192.0.2.7"));
    assert!(first(&nowhere, &far).starts_with("/ip4/192.0.2.7/tcp/4001/p2p/"));
    assert!(first(&[], &near).starts_with("/ip4/127.0.0.1/tcp/4001/p2p/"));
    assert_eq!(first(&[], &nowhere), "");
    assert!(is_near(&near[0]) && !is_near(&far[1]));
}

#[test]
fn a_folder_is_made_ready_and_a_second_federation_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("oslo");
    let made = ticket(None, DAY_MS);
    let key = accept(&made, &dir, &wishes(), 7).unwrap();
    assert_eq!(keys::open(&dir).unwrap().public(), key);
    assert_eq!(Ticket::open(&dir).unwrap(), Some(made.clone()));
    let settings = crate::config::NodeConfig::open(&dir).unwrap();
    assert_eq!(settings.bootstrap, Some(made.addresses.clone()));
    assert_eq!(settings.name.as_deref(), Some("oslo"));
    assert_eq!(settings.data, Some("/rows.jsonl".into()));
    // A fresh ticket to the same federation keeps identity and settings.
    let nothing_new = Wishes {
        data: None,
        ..wishes()
    };
    assert_eq!(accept(&made, &dir, &nothing_new, 7).unwrap(), key);
    assert_eq!(crate::config::NodeConfig::open(&dir).unwrap(), settings);
    let mut other = made;
    other.charter = charter(8);
    let refused = accept(&other, &dir, &wishes(), 7).unwrap_err();
    assert!(matches!(refused, AcceptError::Taken { .. }), "{refused}");
}

#[test]
fn an_expired_ticket_or_one_for_somebody_else_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("oslo");
    let late = accept(&ticket(None, DAY_MS), &dir, &wishes(), DAY_MS + 1).unwrap_err();
    assert!(matches!(late, AcceptError::Expired), "{late}");
    let nameless = Wishes::default();
    let refused = accept(&ticket(None, 0), &dir, &nameless, 0).unwrap_err();
    assert!(matches!(refused, AcceptError::Name { .. }), "{refused}");
    let named = ticket(Some(founder(7).public()), 0);
    assert!(
        accept(&named, &dir, &wishes(), 0).is_err(),
        "there is no key yet"
    );
    assert!(!dir.exists());
    std::fs::create_dir(&dir).unwrap();
    let key = keys::create(&dir).unwrap().public();
    let refused = accept(&named, &dir, &wishes(), 0).unwrap_err();
    assert!(matches!(refused, AcceptError::Else { .. }), "{refused}");
    assert!(!dir.join("charter.toml").exists());
    accept(&ticket(Some(key), 0), &dir, &wishes(), 0).unwrap();
}
