//! Masked vectors that are not what was trained: announced, stored and served in its place.

use conclave_crypto::digest::Digest;
use conclave_crypto::merkle;

use super::{Hostile, Said, Scene};
use crate::letter::Letter;
use crate::message::{self, Commit};
use crate::output::{Stored, Table};
use crate::shard::{self, Cut};

/// Half the ring: no sum of vectors within the clamp can hide it.
const HALF: u32 = 1 << 31;

impl Hostile {
    /// The same vector with half the ring added to each coordinate, to everybody.
    pub(super) fn leave_range(&mut self, mut scene: Scene<'_>) -> Vec<Said> {
        if !self.strikes(&scene) {
            return vec![scene.said];
        }
        let forged = self.forge_commit(&mut scene, HALF);
        Self::replace(scene, forged)
    }

    /// A Commit to the member's vector with something added to each coordinate; the vector is served too.
    pub(super) fn forge_commit(&mut self, scene: &mut Scene<'_>, add: u32) -> Option<Letter> {
        let mut commit: Commit = message::decode(&scene.own.body).ok()?;
        let vector = whole(&commit, scene.disk)?;
        let (words, _) = vector.as_chunks::<4>();
        let shift = |word: &[u8; 4]| u32::from_le_bytes(*word).wrapping_add(add).to_le_bytes();
        let vector: Vec<u8> = words.iter().flat_map(shift).collect();
        commit.root = merkle::root(&vector);
        if commit.inline.is_some() {
            commit.inline = Some(vector);
        } else if !commit.shards.is_empty() {
            let cut = Cut::new(vector.len() / 4, commit.shards.len());
            for (shard, name) in commit.shards.iter_mut().enumerate() {
                let range = cut.range(shard);
                let bytes = vector.get(range.start * 4..range.end * 4)?.to_vec();
                *name = merkle::root(&bytes);
                let key = (Table::Shards, name.as_bytes().to_vec());
                scene.disk.insert(key, bytes.into());
            }
            commit.root = shard::root(&commit.shards);
        } else {
            let key = (Table::Vectors, commit.root.as_bytes().to_vec());
            scene.disk.insert(key, vector.into());
        }
        let forged = self.forge(scene, |_| Some(message::encode(&commit)))?;
        self.lies.insert(forged.digest(), i64::from(add));
        Some(forged)
    }
}

/// The member's own vector: inline, in one piece or in shards.
fn whole(commit: &Commit, disk: &Stored) -> Option<Vec<u8>> {
    if let Some(inline) = &commit.inline {
        return Some(inline.clone());
    }
    let blob = |table, name: &Digest| disk.get(&(table, name.as_bytes().to_vec()));
    if let Some(vector) = blob(Table::Vectors, &commit.root) {
        return Some(vector.to_vec());
    }
    let shards = commit.shards.iter().map(|name| blob(Table::Shards, name));
    let shards: Option<Vec<_>> = shards.collect();
    shards.map(|shards| {
        shards
            .into_iter()
            .flat_map(|shard| shard.iter().copied())
            .collect()
    })
}
