//! What is decided: an encoded record, named by its digest.

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use conclave_crypto::digest::Digest;

use crate::letter::Bytes;

/// An encoded record and its digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Value {
    id: Digest,
    record: Bytes,
}

impl Value {
    pub(super) fn new(record: impl Into<Bytes>) -> Self {
        let record = record.into();
        Self {
            id: super::record_digest(&record),
            record,
        }
    }

    /// A record whose digest is known.
    pub(super) fn known(id: Digest, record: &Bytes) -> Self {
        let record = record.clone();
        Self { id, record }
    }

    pub(super) fn digest(&self) -> Digest {
        self.id
    }

    pub(super) fn record(&self) -> &Bytes {
        &self.record
    }
}

// As the bytes of the record: they are long, and what is decoded from them is shared.
impl Encode for Value {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.record.as_ref().encode(encoder)
    }
}

impl<C> Decode<C> for Value {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Ok(Self::new(Vec::decode(decoder)?))
    }
}

bincode::impl_borrow_decode!(Value);
