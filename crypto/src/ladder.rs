//! What may leave an institution is a type: `Delta → Clipped → Encoded → Noised → Masked`.
//!
//! Each step consumes the last, and only [`Masked`] has an encoder: a leak does not compile.
//!
//! ```
//! fn encoded<T: bincode::Encode>() {}
//! encoded::<conclave_crypto::ladder::Masked>();
//! ```
//! ```compile_fail
//! fn encoded<T: bincode::Encode>() {}
//! encoded::<conclave_crypto::ladder::Delta>();
//! ```
//! ```compile_fail
//! fn encoded<T: bincode::Encode>() {}
//! encoded::<conclave_crypto::ladder::Carried>();
//! ```
//! ```compile_fail
//! fn encoded<T: bincode::Encode>() {}
//! encoded::<conclave_crypto::ladder::Clipped>();
//! ```
//! ```compile_fail
//! fn encoded<T: bincode::Encode>() {}
//! encoded::<conclave_crypto::ladder::Encoded>();
//! ```
//! ```compile_fail
//! fn encoded<T: bincode::Encode>() {}
//! encoded::<conclave_crypto::ladder::Noised>();
//! ```
//! A net mask is used once:
//! ```
//! # use conclave_crypto::ladder::{Masked, NetMask, Noised};
//! fn once(noised: Noised, net: NetMask) -> Masked {
//!     noised.mask(net)
//! }
//! ```
//! ```compile_fail
//! # use conclave_crypto::ladder::{Masked, NetMask, Noised};
//! fn twice(one: Noised, other: Noised, net: NetMask) -> [Masked; 2] {
//!     [one.mask(net), other.mask(net)]
//! }
//! ```
//! ```compile_fail
//! # use conclave_crypto::ladder::{Masked, NetMask, Noised};
//! fn twice(one: Noised, other: Noised, net: NetMask) -> [Masked; 2] {
//!     [one.mask(net.clone()), other.mask(net)]
//! }
//! ```

use core::fmt;

use zeroize::Zeroize;

use crate::fixed::Scale;
use crate::lanes;
use crate::mask::{self, MaskSeed, Prg, Sign};
use crate::privacy::clip;
pub use crate::privacy::noise::Noise;

/// The change of the adapter that local training made: private floats, finite, not all zero.
pub struct Delta(Vec<f32>);

/// A copy of a delta, kept in memory until a certificate says whether the delta counts. It goes nowhere but into a
/// later [`Delta`].
pub struct Carried(Vec<f32>);

/// A delta within the clamp, with the number of coordinates that the clamp changed.
pub struct Clipped {
    values: Vec<f32>,
    changed: u64,
}

/// Ring elements: quantised, times the member's weight.
pub struct Encoded(Vec<u32>);

/// An encoded delta with the noise that the charter asks for.
pub struct Noised(Vec<u32>);

/// What may leave: a noised delta under a net mask. Uniform to whoever lacks the mask.
#[derive(Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Masked(Vec<u32>);

/// All masks of one member in one session. They mask one vector: `mask` consumes them.
pub struct NetMask {
    masks: Vec<(MaskSeed, Sign)>,
    prg: Prg,
}

/// Why a delta must not be submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// It has no coordinate.
    #[error("the delta is empty: the adapter has no trainable coordinate in this round")]
    Empty,
    /// A coordinate is NaN or infinite.
    #[error(
        "coordinate {0} of the delta is not finite: lower the learning rate or look at the data of this round"
    )]
    NotFinite(usize),
    /// Nothing moved.
    #[error(
        "the delta is zero everywhere: training changed nothing, look at the learning rate and the scored tokens"
    )]
    Zero,
}

impl Delta {
    /// Takes the change of each coordinate.
    pub fn new(values: Vec<f32>) -> Result<Self, DeltaError> {
        // From here on a refused delta is wiped as well.
        let delta = Self(values);
        if delta.0.is_empty() {
            return Err(DeltaError::Empty);
        }
        // Of all values without their signs: the greatest as integers is the greatest as floats, and what is not finite
        // is greater than all that is.
        let magnitude = |value: &f32| value.to_bits() & 0x7fff_ffff;
        let greatest = lanes::widest(|| delta.0.iter().map(magnitude).fold(0, u32::max));
        if greatest > f32::MAX.to_bits()
            && let Some(at) = delta.0.iter().position(|value| !value.is_finite())
        {
            return Err(DeltaError::NotFinite(at));
        }
        if greatest == 0 {
            return Err(DeltaError::Zero);
        }
        Ok(delta)
    }

    /// Coordinates.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: an empty delta is refused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A copy, for the case that a certificate leaves this delta out.
    pub fn keep(&self) -> Carried {
        Carried(self.0.clone())
    }

    /// Adds what an earlier round left out (error feedback): before the clamp, so that the sum obeys it.
    ///
    /// # Panics
    /// If the lengths differ: the two are of different factors.
    #[must_use]
    pub fn carry(mut self, left_out: &Carried) -> Self {
        assert_eq!(
            self.0.len(),
            left_out.0.len(),
            "a delta is carried into one of the same factor"
        );
        for (value, left_out) in self.0.iter_mut().zip(&left_out.0) {
            *value += left_out;
        }
        self
    }

    /// Clamps every coordinate to `[−c, c]`.
    pub fn clip(mut self, scale: &Scale) -> Clipped {
        let changed = lanes::widest(|| clip::clamp(&mut self.0, scale.clamp()));
        Clipped {
            values: core::mem::take(&mut self.0),
            changed,
        }
    }
}

impl Clipped {
    /// Coordinates that the clamp changed.
    pub const fn changed(&self) -> u64 {
        self.changed
    }

    /// `weight · round(x · s)` in the ring.
    ///
    /// # Panics
    /// If the weight is zero or above the scale's: the sum could overflow.
    pub fn encode(mut self, scale: &Scale, weight: u32) -> Encoded {
        assert!(
            (1..=scale.weight_max()).contains(&weight),
            "the weight {weight} is not within 1 and {}",
            scale.weight_max()
        );
        // In place: a float and an element take the same room.
        let mut elements: Vec<u32> = bytemuck::cast_vec(core::mem::take(&mut self.values));
        lanes::widest(|| {
            for element in &mut elements {
                *element = scale.encode(f32::from_bits(*element), weight);
            }
        });
        Encoded(elements)
    }
}

impl Encoded {
    /// Adds the charter's noise.
    pub fn noise(mut self, noise: Noise) -> Noised {
        noise.add_to(&mut self.0);
        Noised(core::mem::take(&mut self.0))
    }
}

impl Noised {
    /// Adds the net mask, which is used up: every mask is grown straight into the vector.
    ///
    /// # Panics
    /// If fewer than two masks are in it: a member's own, and one for each other sharer. A vector never leaves in the
    /// clear.
    pub fn mask(mut self, net: NetMask) -> Masked {
        let NetMask { masks, prg } = net;
        assert!(
            masks.len() >= 2,
            "a net mask has the own mask and at least one pair's in it"
        );
        mask::grow_into(&masks, prg, &mut self.0);
        Masked(core::mem::take(&mut self.0))
    }
}

impl NetMask {
    /// A net mask with nothing in it yet.
    pub const fn new(prg: Prg) -> Self {
        Self {
            masks: Vec::new(),
            prg,
        }
    }

    /// Puts one mask in, to be added or subtracted.
    pub fn add(&mut self, seed: MaskSeed, sign: Sign) {
        self.masks.push((seed, sign));
    }
}

impl Masked {
    /// Bytes of all elements.
    pub fn length(&self) -> u64 {
        u64::try_from(self.0.len())
            .unwrap_or(u64::MAX)
            .saturating_mul(4)
    }

    /// The elements of little-endian bytes; `None` if they are no multiple of four.
    #[cfg(test)]
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<4>();
        rest.is_empty()
            .then(|| Self(words.iter().map(|word| u32::from_le_bytes(*word)).collect()))
    }
}

/// The elements as little-endian bytes, four each: as they lie in memory.
impl AsRef<[u8]> for Masked {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Drop for Delta {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Drop for Clipped {
    fn drop(&mut self) {
        self.values.zeroize();
    }
}

impl Drop for Encoded {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Drop for Noised {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

macro_rules! silent {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}
silent!(Delta, Carried, Clipped, Encoded, Noised, Masked, NetMask);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;
    use crate::agree::ExchangeKey;
    use crate::dealing;
    use crate::digest::Digest;

    fn scale() -> Scale {
        Scale::solve(16, 16, &"1.0".parse().expect("good"), 32).expect("feasible")
    }

    fn noised(values: Vec<f32>, weight: u32) -> Noised {
        Delta::new(values)
            .expect("good")
            .clip(&scale())
            .encode(&scale(), weight)
            .noise(Noise::None)
    }

    #[test]
    fn degenerate_deltas_are_refused() {
        assert_eq!(Delta::new(vec![]).err(), Some(DeltaError::Empty));
        assert_eq!(Delta::new(vec![0.0, -0.0]).err(), Some(DeltaError::Zero));
        assert_eq!(
            Delta::new(vec![1.0, f32::NAN]).err(),
            Some(DeltaError::NotFinite(1))
        );
        assert_eq!(
            Delta::new(vec![f32::INFINITY]).err(),
            Some(DeltaError::NotFinite(0))
        );
    }

    #[test]
    fn the_clamp_is_counted() {
        let clipped = Delta::new(vec![0.5, -3.0, 1.0, 2.0])
            .expect("good")
            .clip(&scale());
        assert_eq!(clipped.changed(), 2);
        assert_eq!(clipped.values, [0.5, -1.0, 1.0, 1.0]);
    }

    /// A vector of half a gigabyte is not held twice on its way up: nor is what was private left in memory behind it.
    #[test]
    fn a_delta_climbs_in_its_own_memory() {
        let delta = Delta::new(vec![0.5; 1000]).expect("good");
        let place = delta.0.as_ptr().addr();
        let encoded = delta.clip(&scale()).encode(&scale(), 1);
        assert_eq!(encoded.0.as_ptr().addr(), place);
        let secret = dealing::self_secret(&[1; 32], &Digest::ZERO);
        let mut net = NetMask::new(Prg::ChaCha20);
        for _ in 0..2 {
            net.add(MaskSeed::own(&secret, &Digest::ZERO), Sign::Plus);
        }
        let masked = encoded.noise(Noise::None).mask(net);
        assert_eq!(masked.as_ref().as_ptr().addr(), place);
    }

    /// The clamp holds for what is submitted, not for each part: added behind it, this would give 1.5.
    #[test]
    fn a_carried_delta_is_added_before_the_clamp() {
        let delta = |values: &[f32]| Delta::new(values.to_vec()).expect("good");
        let left_out = delta(&[0.75, 0.25, -3.0]).keep();
        let clipped = delta(&[0.75, 0.25, 2.5]).carry(&left_out).clip(&scale());
        assert_eq!(clipped.values, [1.0, 0.5, -0.5]);
        assert_eq!(clipped.changed(), 1);
    }

    #[test]
    fn nothing_on_the_ladder_talks() {
        let net = NetMask::new(Prg::ChaCha20);
        assert_eq!(format!("{net:?}"), "NetMask");
        assert_eq!(
            format!("{:?}", Delta::new(vec![0.5]).expect("good")),
            "Delta"
        );
        assert_eq!(format!("{:?}", noised(vec![0.5], 1)), "Noised");
    }

    /// A broken invariant panics before anything is masked: no mask at all, or the own one alone.
    #[test]
    fn a_vector_never_leaves_in_the_clear() {
        let secret = dealing::self_secret(&[1; 32], &Digest::ZERO);
        for masks in 0..3 {
            let mut net = NetMask::new(Prg::ChaCha20);
            for _ in 0..masks {
                net.add(MaskSeed::own(&secret, &Digest::ZERO), Sign::Plus);
            }
            let vector = noised(vec![0.5], 1);
            let masked = std::panic::catch_unwind(|| vector.mask(net));
            assert_eq!(masked.is_ok(), masks == 2, "{masks} masks");
        }
    }

    #[test]
    fn a_vector_of_another_length_is_no_masked_vector() {
        assert_eq!(Masked::from_bytes(&[1, 2, 3]), None);
        assert_eq!(Masked::from_bytes(&[1, 0, 0, 0]), Some(Masked(vec![1])));
    }

    /// One member's net mask among `sharers` (member ids with their session keys).
    fn net_mask(
        me: u32,
        sharers: &[(u32, ExchangeKey)],
        own: MaskSeed,
        sid: &Digest,
        prg: Prg,
    ) -> NetMask {
        let mut net = NetMask::new(prg);
        net.add(own, Sign::Plus);
        let (_, key) = sharers.iter().find(|(id, _)| *id == me).expect("a sharer");
        for (other, other_key) in sharers.iter().filter(|(id, _)| *id != me) {
            let shared = key.shared(&other_key.public()).expect("good");
            let (lower, higher) = (me.min(*other), me.max(*other));
            let seed = MaskSeed::pair(
                &shared,
                sid,
                &key.public(),
                &other_key.public(),
                lower,
                higher,
            );
            net.add(seed, if me < *other { Sign::Plus } else { Sign::Minus });
        }
        net
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Among any sharers, with any survivors: the sum of the survivors' masked vectors, less their own masks and
        /// the pair masks of the dropouts rebuilt from their keys, is the plain integer sum.
        #[test]
        fn masks_cancel_whoever_drops_out(
            ids in prop::collection::btree_set(0..1000_u32, 2..8), gone: u8, seed: u64, aes: bool, len in 1..700_usize,
        ) {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let prg = if aes { Prg::Aes256Ctr } else { Prg::ChaCha20 };
            let sid = Digest([4; 32]);
            let sharers: Vec<_> = ids.iter().map(|id| (*id, ExchangeKey::generate(&mut rng))).collect();
            // At least one survives.
            let survives = |at: usize| at == 0 || gone >> at & 1 == 0;
            let (mut plain, mut sum) = (vec![0_u32; len], vec![0_u32; len]);
            let (mut vectors, mut masks) = (Vec::new(), Vec::new());
            for (at, (me, _)) in sharers.iter().enumerate().filter(|(at, _)| survives(*at)) {
                let values: Vec<f32> = (0..len)
                    .map(|_| f32::from(u16::try_from(rng.next_u32() % 4000).expect("small")) / 1999.0 - 1.0)
                    .collect();
                let noised = noised(values, 1 << (at % 4));
                for (total, value) in plain.iter_mut().zip(&noised.0) {
                    *total = total.wrapping_add(*value);
                }
                let secret = dealing::self_secret(&[u8::try_from(at).expect("small"); 32], &sid);
                let own = || MaskSeed::own(&secret, &sid);
                let masked = noised.mask(net_mask(*me, &sharers, own(), &sid, prg));
                let decoded = Masked::from_bytes(masked.as_ref()).expect("a multiple of four");
                prop_assert_eq!(&decoded, &masked);
                vectors.push(masked);
                masks.push((own(), Sign::Minus));
            }
            for (_, (dropout, key)) in sharers.iter().enumerate().filter(|(at, _)| !survives(*at)) {
                for (_, (me, other)) in sharers.iter().enumerate().filter(|(at, _)| survives(*at)) {
                    let shared = key.shared(&other.public()).expect("good");
                    let (lower, higher) = (*me.min(dropout), *me.max(dropout));
                    let pair = MaskSeed::pair(&shared, &sid, &key.public(), &other.public(), lower, higher);
                    // The survivor added it with its own sign: take it away.
                    let sign = if me < dropout { Sign::Minus } else { Sign::Plus };
                    masks.push((pair, sign));
                }
            }
            let vectors: Vec<_> = vectors.iter().map(Masked::as_ref).collect();
            mask::sum_into(&vectors, &masks, prg, &mut sum);
            prop_assert_eq!(sum, plain);
        }
    }
}
