//! What every target asks of a parser: it takes or refuses any bytes, and what it takes has one encoding.

use bincode::{Decode, Encode};
use conclave_protocol::message;

/// Decodes, and encodes again what was decoded.
///
/// # Panics
/// If a value has two encodings.
pub fn total<T: Encode + Decode<()>>(bytes: &[u8]) {
    if let Ok(value) = message::decode::<T>(bytes) {
        assert_eq!(
            message::encode(&value),
            bytes,
            "two encodings of one {}",
            std::any::type_name::<T>()
        );
    }
}
