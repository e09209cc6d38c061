//! What may leave an institution is a type: `Delta → Clipped → Encoded → Noised → Masked`.
//!
//! Each step consumes the last, and only [`Masked`] has an encoder: a leak does not compile.
//!
//! ```compile_fail
//! fn encoded<T: bincode::Encode>() {}
//! encoded::<conclave_crypto::ladder::Delta>();
//! ```
//! ```compile_fail
//! fn encoded<T: bincode::Encode>() {}
//! encoded::<conclave_crypto::ladder::Encoded>();
//! ```
//! ```compile_fail
//! fn encoded<T: bincode::Encode>() {}
//! encoded::<conclave_crypto::ladder::Noised>();
//! ```
//! ```compile_fail
//! fn twice(noised: conclave_crypto::ladder::Noised, net: conclave_crypto::ladder::NetMask) {
//!     let copy = net.clone();
//! }
//! ```
//! ```
//! fn encoded<T: bincode::Encode>() {}
//! encoded::<conclave_crypto::ladder::Masked>();
//! ```

use core::fmt;

use zeroize::Zeroize;

use crate::fixed::Scale;
use crate::mask::{self, MaskSeed, Prg, Sign};

/// The change of the adapter that local training made: private floats, finite, not all zero.
pub struct Delta(Vec<f32>);

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

/// The sum of all masks of one member in one session. It masks one vector: `mask` consumes it.
pub struct NetMask(Vec<u32>);

/// The noise that the charter asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noise {
    /// The charter asks for no privacy beyond the sum: nothing is added, and whoever sees the average sees it exactly.
    None,
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
        if values.is_empty() {
            return Err(DeltaError::Empty);
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(DeltaError::NotFinite(at));
        }
        if values.iter().all(|value| value.abs() == 0.0) {
            return Err(DeltaError::Zero);
        }
        Ok(Self(values))
    }

    /// Coordinates.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: an empty delta is refused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Clamps every coordinate to `[−c, c]`.
    pub fn clip(mut self, scale: &Scale) -> Clipped {
        let clamp = scale.clamp();
        let mut changed: u64 = 0;
        for value in &mut self.0 {
            if value.abs() > clamp {
                *value = value.clamp(-clamp, clamp);
                changed = changed.saturating_add(1);
            }
        }
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
    pub fn encode(mut self, scale: &Scale, weight: u32) -> Encoded {
        let encode = |value: &f32| scale.quantise(*value).cast_unsigned().wrapping_mul(weight);
        let encoded = self.values.iter().map(encode).collect();
        self.values.zeroize();
        Encoded(encoded)
    }
}

impl Encoded {
    /// Adds the charter's noise.
    pub fn noise(mut self, noise: Noise) -> Noised {
        match noise {
            Noise::None => Noised(core::mem::take(&mut self.0)),
        }
    }
}

impl Noised {
    /// Adds the net mask, which is used up.
    ///
    /// # Panics
    /// If the mask has another length.
    pub fn mask(mut self, mut net: NetMask) -> Masked {
        assert_eq!(
            self.0.len(),
            net.0.len(),
            "a mask has one element for each coordinate"
        );
        for (value, mask) in self.0.iter_mut().zip(&net.0) {
            *value = value.wrapping_add(*mask);
        }
        net.0.zeroize();
        Masked(core::mem::take(&mut self.0))
    }
}

impl NetMask {
    /// A mask of `len` elements to which nothing has been added yet.
    pub fn new(len: usize) -> Self {
        Self(vec![0; len])
    }

    /// Adds one mask.
    pub fn add(&mut self, seed: &MaskSeed, prg: Prg, sign: Sign) {
        mask::grow_into(seed, prg, sign, &mut self.0);
    }
}

impl Masked {
    /// The ring elements.
    pub fn elements(&self) -> &[u32] {
        &self.0
    }

    /// The elements as little-endian bytes: four each.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    /// The elements of little-endian bytes; `None` if they are no multiple of four.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<4>();
        rest.is_empty()
            .then(|| Self(words.iter().map(|word| u32::from_le_bytes(*word)).collect()))
    }
}

impl Drop for Delta {
    fn drop(&mut self) {
        self.0.zeroize();
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

impl Drop for NetMask {
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
silent!(Delta, Clipped, Encoded, Noised, Masked, NetMask);

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::agree::ExchangeKey;
    use crate::dealing;
    use crate::digest::Digest;

    fn scale() -> Scale {
        Scale::solve(16, 16, &"1.0".parse().expect("good"), 32).expect("feasible")
    }

    #[test]
    fn degenerate_deltas_are_refused() {
        assert_eq!(Delta::new(vec![]).err(), Some(DeltaError::Empty));
        assert_eq!(Delta::new(vec![0.0, -0.0]).err(), Some(DeltaError::Zero));
        assert_eq!(
            Delta::new(vec![1.0, f32::NAN]).err(),
            Some(DeltaError::NotFinite(1))
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

    /// Masks of a whole set cancel: the sum of the masked vectors less the own masks is the plain sum.
    #[test]
    fn masks_cancel_in_the_sum() {
        let mut rng = ChaCha20Rng::seed_from_u64(11);
        let (sid, len, members) = (Digest([4; 32]), 1000, 6_u32);
        let keys: Vec<_> = (0..members)
            .map(|_| ExchangeKey::generate(&mut rng))
            .collect();
        let mut plain = vec![0_u32; len];
        let mut sum = vec![0_u32; len];
        for (me, key) in (0..members).zip(&keys) {
            let values: Vec<f32> = (0..len)
                .map(|_| {
                    f32::from(u16::try_from(rng.next_u32() % 2000).expect("small")) / 1000.0 - 1.0
                })
                .collect();
            let noised = Delta::new(values)
                .expect("good")
                .clip(&scale())
                .encode(&scale(), 2)
                .noise(Noise::None);
            for (total, value) in plain.iter_mut().zip(&noised.0) {
                *total = total.wrapping_add(*value);
            }
            let own = MaskSeed::own(
                &dealing::self_secret(&[u8::try_from(me).expect("small"); 32], &sid),
                &sid,
            );
            let mut net = NetMask::new(len);
            net.add(&own, Prg::ChaCha20, Sign::Plus);
            for (other, other_key) in (0..members).zip(&keys).filter(|(other, _)| *other != me) {
                let shared = key.shared(&other_key.public()).expect("good");
                let seed = MaskSeed::pair(
                    &shared,
                    &sid,
                    &key.public(),
                    &other_key.public(),
                    me.min(other),
                    me.max(other),
                );
                net.add(
                    &seed,
                    Prg::ChaCha20,
                    if me < other { Sign::Plus } else { Sign::Minus },
                );
            }
            let masked = noised.mask(net);
            assert_eq!(
                Masked::from_bytes(&masked.to_bytes()).as_ref(),
                Some(&masked)
            );
            for (total, value) in sum.iter_mut().zip(masked.elements()) {
                *total = total.wrapping_add(*value);
            }
            mask::grow_into(&own, Prg::ChaCha20, Sign::Minus, &mut sum);
        }
        assert_eq!(sum, plain);
    }
}
