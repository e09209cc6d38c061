//! What a world begins with.

use conclave_crypto::digest::Digest;
use conclave_crypto::sign::IdentityKey;

use crate::charter::{
    Adapter, Admission, Aggregation, Charter, Federation, Founder, Method, Model, Rounds, Timers,
};
use crate::layout::Layout;
use crate::memo::Remembered;
use crate::names::Factor;
use crate::setup::Setup;
use crate::shard;
use crate::time::Span;

/// The size and the pace of a simulated federation.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Everything random comes from it.
    pub seed: u64,
    /// Members of the charter.
    pub founders: usize,
    /// Members that join later by an invitation of the first founder.
    pub joiners: usize,
    /// Rounds.
    pub rounds: u32,
    /// Masked vectors of at most so many bytes travel inline.
    pub inline_limit: u64,
    /// Heights of absence before removal.
    pub absent_rounds: u32,
}

impl Terms {
    /// A small federation: two rounds, vectors inline.
    pub fn new(seed: u64, founders: usize) -> Self {
        Self {
            seed,
            founders,
            joiners: 0,
            rounds: 2,
            inline_limit: 1 << 18,
            absent_rounds: 3,
        }
    }

    /// R70. Whether the founders move and sum their vectors in shards.
    pub fn sharded(&self) -> bool {
        let layout = Self::layout();
        let factors = [Factor::A, Factor::B].map(|factor| layout.count(factor));
        let bytes = factors
            .iter()
            .min()
            .map_or(0, |count| count.saturating_mul(4));
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        shard::applies(self.founders, bytes, self.inline_limit)
    }

    /// The identity of a place: founders first, then joiners.
    pub fn identity(&self, place: usize) -> IdentityKey {
        let place = u64::try_from(place).unwrap_or(u64::MAX);
        let seed = Digest::of(
            "conclave/sim/identity",
            &[&self.seed.to_le_bytes(), &place.to_le_bytes()],
        );
        IdentityKey::from_bytes(&seed.0)
    }

    /// Examples of a place: weights of 1, 2 and 4 alternate.
    pub fn examples(place: usize) -> u64 {
        match place.checked_rem(3) {
            Some(0) => 64,
            Some(1) => 130,
            _ => 300,
        }
    }

    /// The charter.
    ///
    /// # Panics
    /// If the terms are out of the charter's bounds.
    pub fn charter(&self) -> Charter {
        let founders = (0..self.founders).map(|place| Founder {
            name: format!("member {place}"),
            key: self.identity(place).public(),
        });
        let charter = Charter {
            federation: Federation {
                name: "simulated".to_owned(),
                protocol: 1,
                nonce: Digest::of("conclave/sim/nonce", &[&self.seed.to_le_bytes()]).0,
            },
            model: Model {
                digest: Digest::ZERO,
                architecture: "llama".to_owned(),
            },
            adapter: Adapter {
                method: Method::default(),
                seed: 1,
            },
            round: Rounds {
                rounds: self.rounds,
                local_steps: 10,
                timers: Self::timers(),
            },
            aggregation: Aggregation {
                inline_limit: self.inline_limit,
                absent_rounds: self.absent_rounds,
                members_max: Charter::default_members_max(self.founders),
                ..Aggregation::default()
            },
            admission: if self.joiners > 0 {
                Admission::Invite
            } else {
                Admission::Closed
            },
            members: founders.collect(),
        };
        charter.checked().expect("the terms make a sound charter")
    }

    /// What a founder starts from, the charter being these terms'.
    pub fn setup(&self, charter: &Charter, place: usize) -> Setup {
        Setup {
            charter: charter.clone(),
            identity: self.identity(place),
            name: format!("member {place}"),
            examples: Self::examples(place),
            layout: Self::layout(),
            initial: Self::initial().into(),
            invite: None,
            intact: true,
            memo: Remembered::default(),
        }
    }

    /// The shape of the simulated adapter: 24 coordinates in two factors.
    pub fn layout() -> Layout {
        Layout {
            shape: Digest::of("conclave/sim/shape", &[]),
            len: 24,
            a: vec![0..8, 16..20],
            b: vec![8..16, 20..24],
        }
    }

    /// The adapter before training.
    pub fn initial() -> Vec<f32> {
        let layout = Self::layout();
        let mut initial = vec![0.0; layout.len];
        for place in layout.a.iter().flat_map(Clone::clone) {
            if let Some(value) = initial.get_mut(place) {
                *value = 0.125;
            }
        }
        initial
    }

    /// Seconds instead of minutes: the virtual clock is free, but every heartbeat is signed.
    fn timers() -> Timers {
        Timers {
            genesis: Span::seconds(10),
            setup: Span::seconds(5),
            submit_min: Span::seconds(6),
            submit_max: Span::seconds(20),
            quiet: Span::seconds(4),
            heartbeat: Span::seconds(2),
            have: Span::seconds(3),
            reveal: Span::seconds(4),
            sync: Span::seconds(1),
            linger: Span::seconds(5),
            consensus_base: Span::seconds(1),
            consensus_step: Span(500),
        }
    }
}
