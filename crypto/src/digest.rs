//! Digests: SHA-256 (FIPS 180-4), always with a domain string in front.

use core::cmp::Ordering;
use core::fmt;
use core::str::FromStr;

use sha2::{Digest as _, Sha256};

/// A digest of 32 bytes, the name of what it is made of: by SHA-256 here, by BLAKE3 for vectors and adapters
/// ([`merkle`](crate::merkle)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, bincode::Encode, bincode::Decode)]
pub struct Digest(pub [u8; 32]);

/// By their bytes. The first eight tell nearly any two apart, and maps of digests are searched much.
impl Ord for Digest {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        let [own, others] = [self, other].map(|digest| {
            let bytes = digest.0.first_chunk().expect("a digest has 32 bytes");
            u64::from_be_bytes(*bytes)
        });
        own.cmp(&others).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Digest {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Digest {
    /// The digest of 32 zero bytes: what stands where there is nothing before.
    pub const ZERO: Self = Self([0; 32]);

    /// `SHA-256(domain ‖ parts[0] ‖ parts[1] ‖ …)`.
    ///
    /// The parts are joined without lengths: the caller gives each domain one shape, in which only
    /// the last part may vary in length.
    pub fn of(domain: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new_with_prefix(domain.as_bytes());
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hexadecimal digits, for people.
    pub fn short(&self) -> String {
        hex::encode(self.0.first_chunk::<4>().expect("a digest has 32 bytes"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest has 64 hexadecimal digits, this is {0:?}")]
pub struct NotADigest(String);

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotADigest(text.to_owned()))?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_in_order_as_their_bytes_are() {
        let mut digests = vec![Digest([7; 32])];
        for at in [0, 6, 7, 8, 15, 31] {
            for byte in [0, 6, 8, 0x80, 0xff] {
                let mut digest = Digest([7; 32]);
                digest.0[at] = byte;
                digests.push(digest);
            }
        }
        for one in &digests {
            for other in &digests {
                assert_eq!(one.cmp(other), one.0.cmp(&other.0), "{one} {other}");
            }
        }
    }
}
