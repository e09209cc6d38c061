//! Sums and tags of shards that are not those of the vectors: announced to everybody, and served.

use std::collections::BTreeSet;

use conclave_crypto::digest::Digest;
use conclave_crypto::merkle;

use super::{Hostile, Said, Scene};
use crate::envelope::Envelope;
use crate::letter::Letter;
use crate::message::{self, Commit, Have, SumCommit, Tags};
use crate::output::Table;

impl Hostile {
    /// Every sum with one bit turned; the false ones are served.
    pub(super) fn sum_falsely(&mut self, mut scene: Scene<'_>) -> Vec<Said> {
        let forged = self.forge_sums(&mut scene);
        Self::replace(scene, forged)
    }

    fn forge_sums(&mut self, scene: &mut Scene<'_>) -> Option<Letter> {
        let mut body: SumCommit = message::decode(&scene.own.body).ok()?;
        for (_, name) in &mut body.sums {
            let genuine = (Table::Shards, name.as_bytes().to_vec());
            let mut sum = scene.disk.get(&genuine)?.to_vec();
            *sum.first_mut()? ^= 1;
            *name = merkle::root(&sum);
            let key = (Table::Shards, name.as_bytes().to_vec());
            scene.disk.insert(key, sum.into());
        }
        self.forge(scene, |_| Some(message::encode(&body)))
    }

    /// Every shard of every vector that was announced here, held or not.
    pub(super) fn claim(&mut self, scene: Scene<'_>) -> Vec<Said> {
        let forged = self.forge(&scene, |_| {
            let announced: Vec<_> = announced(&scene).collect();
            let shards = announced
                .iter()
                .map(|(_, commit)| commit.shards.len())
                .max()?;
            let commits: BTreeSet<_> = announced.iter().map(|(digest, _)| *digest).collect();
            let body = Have {
                commits: commits.into_iter().collect(),
                shards: (0..u32::try_from(shards).ok()?).collect(),
            };
            Some(message::encode(&body))
        });
        Self::replace(scene, forged)
    }

    /// The Commit as it is, and the first shards of its vector not on the disk that others pull from.
    pub(super) fn keep_to_itself(&mut self, scene: Scene<'_>, shards: usize) -> Vec<Said> {
        if let Ok(commit) = message::decode::<Commit>(&scene.own.body) {
            for name in commit.shards.into_iter().take(shards) {
                let shard = (Table::Shards, name.as_bytes().to_vec());
                self.acted |= scene.disk.remove(&shard).is_some();
            }
        }
        vec![scene.said]
    }

    /// Every tag moved by one.
    pub(super) fn tag_falsely(&mut self, scene: Scene<'_>) -> Vec<Said> {
        let forged = self.forge(&scene, |_| {
            let mut body: Tags = message::decode(&scene.own.body).ok()?;
            for tag in &mut body.tags {
                *tag ^= 1;
            }
            Some(message::encode(&body))
        });
        Self::replace(scene, forged)
    }
}

/// The Commits of the height that stand on the disk.
fn announced(scene: &Scene<'_>) -> impl Iterator<Item = (Digest, Commit)> {
    scene.commits().into_iter().filter_map(|row| {
        let envelope = Envelope::from_bytes(&row).ok()?;
        let commit = message::decode(&envelope.body).ok()?;
        Some((Envelope::digest_of(&row), commit))
    })
}
