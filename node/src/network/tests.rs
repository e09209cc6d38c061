//! Several networks in one process: they find each other, gossip, and fetch what others hold.

use std::collections::BTreeSet;

use conclave_protocol::output::{Table, Write};
use tokio::time::timeout;

use super::*;
use crate::store::Store;

/// A network with its identity, its store and where it listens.
struct Node {
    member: PublicKey,
    network: Network,
    heard: mpsc::Receiver<NetworkEvent>,
    address: Multiaddr,
    _dir: tempfile::TempDir,
}

const CHARTER: Digest = Digest([3; 32]);
const DEADLINE: Duration = Duration::from_secs(60);
const TCP: &str = "/ip4/127.0.0.1/tcp/0";

fn key(seed: u8) -> IdentityKey {
    IdentityKey::from_bytes(&[seed; 32])
}

fn members(seeds: impl IntoIterator<Item = u8>) -> Vec<PublicKey> {
    seeds.into_iter().map(|seed| key(seed).public()).collect()
}

fn addressing(listen: &str, bootstrap: Option<Multiaddr>) -> Addressing {
    Addressing {
        listen: vec![listen.parse().unwrap()],
        announce: Vec::new(),
        bootstrap: bootstrap.into_iter().collect(),
        guests: false,
    }
}

/// Starts a node that holds these blobs.
async fn start_with(
    seed: u8,
    among: &[PublicKey],
    addressing: Addressing,
    blobs: &[(Digest, Vec<u8>)],
) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &CHARTER).unwrap();
    for (name, blob) in blobs {
        let write = Write {
            table: Table::Vectors,
            key: name.as_bytes().to_vec(),
            value: Some(blob.clone().into()),
        };
        store.perform(&[write]).unwrap();
    }
    let (network, heard) = super::start(
        &key(seed),
        CHARTER,
        among.to_vec(),
        addressing,
        Vec::new(),
        1 << 18,
        store.blobs(),
    )
    .unwrap();
    let mut node = Node {
        member: key(seed).public(),
        network,
        heard,
        address: Multiaddr::empty(),
        _dir: dir,
    };
    node.address = node
        .wait(|heard| match heard {
            NetworkEvent::Listening { address } => Some(address),
            _ => None,
        })
        .await;
    node
}

async fn start(seed: u8, among: &[PublicKey], bootstrap: Option<&Node>) -> Node {
    let bootstrap = bootstrap.map(|node| node.address.clone());
    start_with(seed, among, addressing(TCP, bootstrap), &[]).await
}

impl Node {
    /// The next event that `pick` takes; others are dropped.
    async fn wait<T>(&mut self, mut pick: impl FnMut(NetworkEvent) -> Option<T>) -> T {
        let found = async {
            loop {
                let heard = self.heard.recv().await.expect("the network runs");
                if let Some(found) = pick(heard) {
                    return found;
                }
            }
        };
        timeout(DEADLINE, found).await.expect("within the deadline")
    }

    /// Waits until so many members are connected.
    async fn meet(&mut self, count: usize) {
        let mut met = BTreeSet::new();
        self.wait(|heard| {
            match heard {
                NetworkEvent::Connected { peer, .. } => met.insert(peer),
                NetworkEvent::Disconnected { peer } => met.remove(&peer),
                _ => false,
            };
            (met.len() == count).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_find_each_other_through_one_and_gossip_passes_judged_messages_on() {
    let all = members(1..=3);
    let mut one = start(1, &all, None).await;
    let mut two = start(2, &all, Some(&one)).await;
    let mut three = start(3, &all, Some(&one)).await;
    tokio::join!(one.meet(2), two.meet(2), three.meet(2));
    let said = vec![7; 300_000];
    two.network.publish(Topic::Control, said.clone());
    for node in [&mut one, &mut three] {
        // Before the mesh stands, the message comes directly.
        let gossip = node
            .wait(|heard| match heard {
                NetworkEvent::Received { bytes, gossip, .. } if bytes == said => Some(gossip),
                _ => None,
            })
            .await;
        if let Some(gossip) = gossip {
            node.network.judged(gossip, Verdict::Accepted);
        }
    }
    // Saying the same again reaches the others directly, in order with what follows.
    two.network.publish(Topic::Control, said.clone());
    for number in 0..500_u32 {
        two.network.send(one.member, number.to_le_bytes().to_vec());
    }
    let mut expected = 0_u32;
    one.wait(|heard| {
        if let NetworkEvent::Received { bytes, .. } = heard
            && let Ok(number) = bytes.try_into()
        {
            assert_eq!(u32::from_le_bytes(number), expected);
            expected += 1;
        }
        (expected == 500).then_some(())
    })
    .await;
    assert!(two.network.counters().sent > 600_000);
    // What was said just before closing still arrives.
    two.network.send(one.member, b"farewell".to_vec());
    two.network.close().await;
    one.wait(|heard| match heard {
        NetworkEvent::Received { bytes, .. } if bytes == b"farewell" => Some(()),
        _ => None,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_in_a_row_all_meet_though_each_knows_only_the_one_before() {
    let all = members(51..=60);
    let mut nodes: Vec<Node> = Vec::new();
    for seed in 51..=60 {
        let before = nodes.last();
        nodes.push(start(seed, &all, before).await);
    }
    for node in &mut nodes {
        node.meet(9).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quic_alone_carries_a_federation_too() {
    let all = members(31..=32);
    let quic = "/ip4/127.0.0.1/udp/0/quic-v1";
    let mut one = start_with(31, &all, addressing(quic, None), &[]).await;
    let bootstrap = Some(one.address.clone());
    let mut two = start_with(32, &all, addressing(quic, bootstrap), &[]).await;
    tokio::join!(one.meet(1), two.meet(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_arrives_though_its_first_holder_dies_on_the_way() {
    let all = members(11..=13);
    let name = Digest([5; 32]);
    let blob: Vec<u8> = (0..40_000_000_u32).map(|i| (i % 251) as u8).collect();
    let held = [(name, blob.clone())];
    let mut one = start(11, &all, None).await;
    let near = addressing(TCP, Some(one.address.clone()));
    let mut dying = start_with(12, &all, near.clone(), &held).await;
    let mut living = start_with(13, &all, near, &held).await;
    tokio::join!(one.meet(2), dying.meet(2), living.meet(2));
    let length = blob.len() as u64;
    let before = one.network.counters().received;
    one.network
        .pull(name, length, vec![dying.member, living.member]);
    // It dies once a first part has arrived.
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while one.network.counters().received < before + 100_000 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    drop(dying);
    let bytes = one
        .wait(|heard| match heard {
            NetworkEvent::Pulled { bytes, .. } => Some(bytes),
            NetworkEvent::PullFailed { .. } => panic!("somebody holds it"),
            _ => None,
        })
        .await;
    assert!(bytes == blob);
    let given = living.network.counters().sent;
    assert!(
        given > 1_000_000,
        "the second holder gave only {given} bytes"
    );
    assert!(
        given < length,
        "the second holder gave everything: {given} bytes"
    );
    // A blob of another length or name is not had by anybody.
    one.network.pull(name, 17, vec![living.member]);
    one.wait(|heard| matches!(heard, NetworkEvent::PullFailed { .. }).then_some(()))
        .await;
    one.network
        .pull(Digest([6; 32]), length, vec![living.member]);
    one.wait(|heard| matches!(heard, NetworkEvent::PullFailed { .. }).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_and_counted() {
    let inside = members(21..=22);
    let mut one = start(21, &inside, None).await;
    let _stranger = start(23, &members(21..=23), Some(&one)).await;
    one.wait(|heard| match heard {
        NetworkEvent::Stranger => Some(()),
        NetworkEvent::Connected { .. } => panic!("it is no member"),
        _ => None,
    })
    .await;
    // A member still gets in, and the stranger too once it is one.
    let _member = start(22, &inside, Some(&one)).await;
    one.meet(1).await;
    one.network.admit(members([23]));
    one.meet(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_heard_before_it_is_admitted_and_told_of_afterwards() {
    let inside = members(71..=72);
    let open = |bootstrap| Addressing {
        guests: true,
        ..addressing(TCP, bootstrap)
    };
    let mut one = start_with(71, &inside, open(None), &[]).await;
    let all = members(71..=73);
    let near = addressing(TCP, Some(one.address.clone()));
    let mut guest = start_with(73, &all, near, &[]).await;
    guest.meet(1).await;
    guest.network.send(one.member, b"an invitation".to_vec());
    let from = one
        .wait(|heard| match heard {
            NetworkEvent::Received { from, bytes, .. } if bytes == b"an invitation" => Some(from),
            NetworkEvent::Connected { .. } => panic!("it is no member yet"),
            _ => None,
        })
        .await;
    assert_eq!(from, guest.member);
    one.network.admit(vec![from]);
    one.meet(1).await;
    // One that shows nothing is turned away after a while.
    let _silent = start_with(
        74,
        &members(71..=74),
        addressing(TCP, Some(one.address.clone())),
        &[],
    )
    .await;
    one.wait(|heard| match heard {
        NetworkEvent::Stranger => Some(()),
        NetworkEvent::Connected { .. } => panic!("it showed nothing"),
        _ => None,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_the_end_arrives() {
    let all = members(86..=87);
    let mut one = start(86, &all, None).await;
    let mut two = start(87, &all, Some(&one)).await;
    two.meet(1).await;
    for number in 0..20 {
        two.network.send(one.member, vec![number; 1 << 19]);
    }
    two.network.close().await;
    let mut next = 0;
    one.wait(|heard| {
        if let NetworkEvent::Received { bytes, .. } = heard {
            assert_eq!(bytes, vec![next; 1 << 19]);
            next += 1;
        }
        (next == 20).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_frame_breaks_its_stream_and_nothing_else() {
    let all = members(81..=83);
    let mut one = start(81, &all, None).await;
    let (hostile, honest) = (
        start(82, &all, Some(&one)).await,
        start(83, &all, Some(&one)).await,
    );
    one.meet(2).await;
    hostile.network.send(one.member, vec![1; 6 << 20]);
    let from = one
        .wait(|heard| match heard {
            NetworkEvent::Offence {
                from,
                refusal: Refusal::Oversized,
            } => Some(from),
            _ => None,
        })
        .await;
    assert_eq!(from, hostile.member);
    // What no gossip carries is not even sent; what is no envelope is the driver's to refuse.
    hostile.network.publish(Topic::Control, vec![2; 6 << 20]);
    hostile.network.publish(Topic::Vote, b"nonsense".to_vec());
    honest.network.send(one.member, b"still here".to_vec());
    let mut due = BTreeSet::from([b"nonsense".to_vec(), b"still here".to_vec()]);
    let network = one.network.clone();
    one.wait(|heard| {
        if let NetworkEvent::Received { bytes, gossip, .. } = heard {
            assert!(bytes.len() < 1 << 20);
            if let Some(gossip) = gossip {
                network.judged(gossip, Verdict::Refused(Refusal::Malformed));
            }
            due.remove(&bytes);
        }
        due.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let one = start(41, &members(41..=42), None).await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &CHARTER).unwrap();
    let addressing = Addressing {
        listen: vec![one.address.clone()],
        ..Addressing::default()
    };
    let started = super::start(
        &key(42),
        CHARTER,
        Vec::new(),
        addressing,
        Vec::new(),
        0,
        store.blobs(),
    );
    let error = started.expect_err("the port is taken");
    assert!(matches!(error, NetworkError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn orders_that_find_no_room_keep_their_order() {
    let (commands, mut taken) = mpsc::channel(1);
    let network = Network {
        overflow: Overflow::behind(&commands),
        commands,
        counters: Arc::default(),
    };
    for round in 0..50 {
        network.admit(members([round]));
        network.dismiss(members([round]));
    }
    for round in 0..50 {
        let first = taken.recv().await.unwrap();
        assert!(matches!(first, Command::Admit { members: who } if who == members([round])));
        let then = taken.recv().await.unwrap();
        assert!(matches!(then, Command::Dismiss { guests } if guests == members([round])));
    }
    drop(network);
    assert!(
        taken.recv().await.is_none(),
        "the network ends with its last handle"
    );
}
