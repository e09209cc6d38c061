//! What the member wants stored, and the blobs that it gets back: mapped files in place of memory.

use conclave_crypto::digest::Digest;
use conclave_protocol::floats::Floats;
use conclave_protocol::input::Input;
use conclave_protocol::output::{Order, Table, Write};

use super::{Driver, DriverError};

impl Driver {
    /// Makes what the member wants stored durable, and hands its blobs back from where they stand now.
    pub(super) fn flush(&mut self, writes: &mut Vec<Write>) -> Result<(), DriverError> {
        if writes.is_empty() {
            return Ok(());
        }
        tokio::task::block_in_place(|| self.store.perform(writes))?;
        let now = self.clock.now();
        for write in writes.drain(..).filter(|write| write.value.is_some()) {
            // The member lets its copy of a blob go, for the one that stands on the disk.
            if let Ok(name) = write.key.try_into().map(Digest)
                && let Some(bytes) = self.store.blobs().get(write.table, &name)
            {
                self.member.hear(now, Input::Stored { name, bytes });
            }
        }
        Ok(())
    }

    /// Gives the engine an order, with the adapter as it stands in its file.
    pub(super) fn order(&mut self, mut order: Order) {
        if let Order::Adopt { height, round, .. } = order {
            self.told.adopted(height, round);
        }
        if let Order::Adopt {
            adapter, digest, ..
        }
        | Order::Train {
            adapter, digest, ..
        } = &mut order
            && let Some(bytes) = self.store.blobs().get(Table::Adapters, digest)
            && let Some(stored) = Floats::from_bytes(&bytes)
        {
            *adapter = stored;
        }
        self.engine.order(order);
    }
}
