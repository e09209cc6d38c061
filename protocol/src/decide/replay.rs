//! The start of a height, from nothing or from the log of an earlier run.

use arc_malachitebft_core_consensus::Input as Fed;
use arc_malachitebft_core_types::VoteExtensionPolicy;
use conclave_crypto::sign::IdentityKey;

use super::context::Ctx;
use super::wire::{self, Entry};
use super::{Decider, Effect, StartError, shell};
use crate::claim::Claim;
use crate::letter::Bytes;
use crate::names::Height;
use crate::time::Time;

/// Whether a log of this height holds what a claim says was signed.
pub(crate) fn logged(wal: &[Bytes], height: Height, claim: &Claim) -> bool {
    wal.iter().any(|bytes| match Entry::parse(height, bytes) {
        Some((Entry::Said(envelope), _)) => claim.is(&envelope),
        Some(_) | None => false,
    })
}

impl Decider {
    /// Starts round 0, or, with the entries of an earlier run's log in their order, takes up where that run stood.
    ///
    /// On an error the engine is spent: make a new one without a vote (`me` is `None`) and start that.
    pub fn start(&mut self, now: Time, wal: &[Bytes], key: &IdentityKey) -> Result<(), StartError> {
        if self.started || self.done {
            return Ok(());
        }
        self.started = true;
        self.shell.now = now;
        let mut entries = Vec::with_capacity(wal.len());
        let mut inputs = Vec::with_capacity(wal.len());
        for (index, bytes) in wal.iter().enumerate() {
            let height = self.height;
            let parsed = Entry::parse(height, bytes);
            let (entry, input) = parsed.ok_or(StartError::Unreadable { height, index })?;
            entries.push(entry);
            inputs.push(input);
        }
        self.shell.replayed = wal.iter().map(|entry| entry.to_vec()).collect();
        for entry in entries {
            self.recall(entry);
        }
        self.replay(inputs, key)?;
        self.shell.replayed.clear();
        self.settle();
        self.ask_again();
        for said in core::mem::take(&mut self.early) {
            self.feed_said(said, key);
        }
        Ok(())
    }

    fn start_height(&self, again: bool) -> Fed<Ctx> {
        let voters = self.shell.voters.clone();
        let policy = VoteExtensionPolicy::Disabled;
        Fed::StartHeight(self.height.into(), voters, again, None, policy)
    }

    /// Feeds the log; own signatures in it are used again, and entries in it are not appended again.
    fn replay(&mut self, inputs: Vec<Fed<Ctx>>, key: &IdentityKey) -> Result<(), StartError> {
        let height = self.height;
        let diverged = |error: shell::CoreError| StartError::Diverged {
            height,
            reason: error.to_string(),
        };
        let start = self.start_height(!inputs.is_empty());
        self.state.index_wal_entries(&inputs);
        shell::feed(&mut self.state, &mut self.shell, key, start).map_err(diverged)?;
        for input in inputs {
            shell::feed(&mut self.state, &mut self.shell, key, input).map_err(diverged)?;
        }
        self.state.reset_entries_index();
        Ok(())
    }

    /// After a replay: the records of which the log holds a proposal but no judgement.
    fn ask_again(&mut self) {
        if self.done {
            return;
        }
        for (digest, (round, proposer, record)) in &self.proposed {
            if !self.judged.contains_key(digest) && self.shown.insert(*digest) {
                self.shell.outbox.push_back(Effect::Judge {
                    round: *round,
                    proposer: *proposer,
                    record: record.clone(),
                });
            }
        }
    }

    /// Takes up what an entry of the log says beside the core's state.
    fn recall(&mut self, entry: Entry) {
        match entry {
            Entry::Said(envelope) => {
                let Ok((slot, said)) = self.read(&envelope, || wire::said(&envelope)) else {
                    return;
                };
                self.register(&said, slot);
                self.shell.recall(slot, envelope);
            }
            Entry::Judged { record, valid, .. } => {
                self.judged.insert(record.digest(), valid);
            }
            Entry::Elapsed { .. } | Entry::Polka(_) => {}
        }
    }
}
