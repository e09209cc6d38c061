//! What the member wants done, in its order: stored, said, ordered and told. Its blobs come back as mapped files in
//! place of memory.

use conclave_crypto::digest::Digest;
use conclave_protocol::floats::Floats;
use conclave_protocol::input::Input;
use conclave_protocol::output::{Order, Output, Report, Table, Write};

use super::{Driver, DriverError, End};
use crate::allocator;

impl Driver {
    /// Performs what the member wants, in order; gives the end of the job if it was reached.
    ///
    /// Only what goes to the network waits for writes behind it too, which then are made durable together: a message
    /// may be late, or lost with the process, anyhow.
    pub(super) fn perform(&mut self) -> Result<Option<End>, DriverError> {
        let mut end = None;
        let mut writes: Vec<Write> = Vec::new();
        let mut said: Vec<Output> = Vec::new();
        while let Some(output) = self.member.poll() {
            match output {
                Output::Store(write) => writes.push(write),
                Output::Publish { .. } | Output::Send { .. } | Output::Pull { .. } => {
                    said.push(output);
                }
                Output::Order(order) => {
                    self.settle(&mut writes, &mut said)?;
                    self.order(order);
                }
                Output::Report(report) => {
                    self.settle(&mut writes, &mut said)?;
                    if let Report::Decided {
                        height,
                        members_after_next,
                        ..
                    } = &report
                    {
                        self.network.admit(members_after_next.clone());
                        self.see_off();
                        self.look_at_missed(*height);
                    }
                    self.told.report(&report, self.member.status().round);
                    match report {
                        Report::Finished { head, adapter } => {
                            end = Some(End::Finished { head, adapter });
                        }
                        Report::Left { reason } => end = Some(End::Left { reason }),
                        Report::Dealt { .. } if self.doubtful => {
                            // It says something new: so it knows what it had said.
                            self.doubtful = false;
                            self.store.trust()?;
                        }
                        Report::Halted { reason } => return Err(DriverError::Halted { reason }),
                        _ => {}
                    }
                }
            }
        }
        self.settle(&mut writes, &mut said)?;
        Ok(end)
    }

    /// Makes durable what there is to store, then gives the network what it is to send and to fetch.
    fn settle(
        &mut self,
        writes: &mut Vec<Write>,
        said: &mut Vec<Output>,
    ) -> Result<(), DriverError> {
        self.flush(writes)?;
        for output in said.drain(..) {
            match output {
                Output::Publish { topic, bytes } => self.network.publish(topic, bytes),
                Output::Send { to, bytes } => self.network.send(to, bytes),
                Output::Pull { name, length, from } => self.network.pull(name, length, from),
                Output::Store(_) | Output::Order(_) | Output::Report(_) => {}
            }
        }
        Ok(())
    }

    /// Makes what the member wants stored durable, and hands its blobs back from where they stand now.
    fn flush(&mut self, writes: &mut Vec<Write>) -> Result<(), DriverError> {
        if writes.is_empty() {
            return Ok(());
        }
        tokio::task::block_in_place(|| self.store.perform(writes))?;
        let now = self.clock.now();
        let mut large = false;
        for write in writes.drain(..).filter(|write| write.value.is_some()) {
            // The member lets its copy of a blob go, for the one that stands on the disk.
            if let Ok(name) = write.key.try_into().map(Digest)
                && let Some(bytes) = self.store.blobs().get(write.table, &name)
            {
                large |= bytes.len() >= LARGE;
                self.member.hear(now, Input::Stored { name, bytes });
            }
        }
        if large {
            allocator::give_back();
        }
        Ok(())
    }

    /// Gives the engine an order, with the adapter as it stands in its file.
    fn order(&mut self, mut order: Order) {
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

/// Bytes of a blob from which on its memory is worth giving back at once.
const LARGE: usize = 16 << 20;
