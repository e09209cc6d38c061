//! A flat vector of f32 that several holders share: in memory, or in a file that is mapped.

use crate::letter::Bytes;

/// Coordinates as the little-endian bytes that they travel as. Cloning copies none.
#[derive(Clone, PartialEq, Eq)]
pub struct Floats(Bytes);

/// Coordinates in memory, as the owner of their bytes.
struct Held(Vec<f32>);

impl Floats {
    /// The coordinates that the bytes are, without a copy where they lie as f32 may; `None` if they are no multiple of
    /// four.
    pub fn from_bytes(bytes: &Bytes) -> Option<Self> {
        if bytemuck::try_cast_slice::<u8, f32>(bytes).is_ok() {
            return Some(Self(bytes.clone()));
        }
        let (words, rest) = bytes.as_chunks::<4>();
        let values = words.iter().map(|word| f32::from_le_bytes(*word));
        rest.is_empty().then(|| values.collect::<Vec<_>>().into())
    }

    /// The bytes, four a coordinate.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl From<Vec<f32>> for Floats {
    fn from(values: Vec<f32>) -> Self {
        Self(Bytes::from_owner(Held(values)))
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl core::ops::Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // Both ways to a value leave it at a place for f32.
        bytemuck::cast_slice(&self.0)
    }
}

impl core::fmt::Debug for Floats {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Floats({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shared_where_they_lie_well_and_copied_where_not() {
        let floats = Floats::from(vec![1.0, -2.5, 3.25]);
        let bytes = floats.bytes().clone();
        let again = Floats::from_bytes(&bytes).expect("twelve bytes");
        assert_eq!(again.bytes().as_ptr(), bytes.as_ptr());
        let apart: Vec<u8> = [&[0], bytes.as_ref(), &[0, 0, 0]].concat();
        for begin in 0..4 {
            let shifted = Bytes::from(apart.clone()).slice(begin..begin + 12);
            let read = Floats::from_bytes(&shifted).expect("twelve bytes");
            let value = read.first().copied().expect("three coordinates");
            assert_eq!(value.to_bits() == 1.0_f32.to_bits(), begin == 1);
        }
        assert_eq!(Floats::from_bytes(&bytes.slice(0..7)), None);
        assert!(Floats::from_bytes(&Bytes::new()).is_some_and(|none| none.is_empty()));
    }
}
