//! The reveal-once journal: in one session a member reveals under one record, across restarts. R30

use std::collections::BTreeMap;

use conclave_crypto::digest::Digest;

use crate::desk::Desk;
use crate::letter::Bytes;
use crate::names::SessId;
use crate::output::{Stored, Table};

/// Session → the one record under which we reveal in it.
#[derive(Debug, Default)]
pub(crate) struct Journal(BTreeMap<SessId, Digest>);

impl Journal {
    /// Reads the durable journal; `None` if a row is damaged.
    pub(crate) fn restore(stored: &Stored) -> Option<Self> {
        let rows = crate::outbox::table(stored, Table::Journal);
        let parse = |(key, value): (&[u8], &Bytes)| {
            let sess = SessId(Digest(key.try_into().ok()?));
            Some((sess, Digest(value.as_ref().try_into().ok()?)))
        };
        rows.map(parse).collect::<Option<_>>().map(Self)
    }

    /// R30. Whether we may reveal in this session under this record; durable before the answer is used.
    pub(crate) fn permit(&mut self, desk: &mut Desk, sess: SessId, record: Digest) -> bool {
        if let Some(known) = self.0.get(&sess) {
            return *known == record;
        }
        self.0.insert(sess, record);
        let key = sess.0.as_bytes().to_vec();
        desk.store(Table::Journal, key, record.as_bytes().to_vec());
        true
    }
}
