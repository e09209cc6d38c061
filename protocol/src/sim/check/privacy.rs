//! I-PRIV: from all that the adversary saw, no honest member's vector follows, and no sum of too few of them.
//!
//! The adversary is all hostile members together. It sees every message, holds every share that was ever dealt to one
//! of its own, and knows its own seeds, keys and vectors. What follows from that is linear algebra: see [`solver`].

pub mod solver;

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::names::{MemberId, SessId};
use crate::params;
use crate::sim::World;

use self::solver::View;

const PROMISE: &str = "no honest vector and no sum of too few is derivable";

/// Judges every session.
pub fn check(world: &World) -> Result<(), Violation> {
    for (sess, view) in views(world) {
        let found = view.lightest().map_err(|open| {
            let what = format!("session {}: {open}", sess.0.short());
            Violation::new(PROMISE, what)
        })?;
        if let Some(found) = found {
            let members: Vec<_> = found.iter().map(|member| member.0).collect();
            let what = format!(
                "in session {} the sum of the honest members {members:?} alone follows from what came out",
                sess.0.short()
            );
            return Err(Violation::new(PROMISE, what));
        }
    }
    Ok(())
}

/// What the adversary sees of each session in which an honest member masked a vector.
fn views(world: &World) -> BTreeMap<SessId, View> {
    let watch = world.watch();
    let hostile: BTreeSet<MemberId> = world.hostile_ids().into_iter().collect();
    let charter = world.charter();
    let mut views = BTreeMap::new();
    for (sess, scene) in &watch.scenes {
        let n = scene.roster.len();
        let corrupt: BTreeSet<_> = scene
            .roster
            .iter()
            .copied()
            .filter(|id| hostile.contains(id))
            .collect();
        let least = params::survivors_min(charter, n).saturating_sub(corrupt.len());
        let vectors = scene.vectors.iter();
        let vectors = vectors.filter(|vector| !hostile.contains(&vector.member));
        views.insert(
            *sess,
            View {
                threshold: params::quorum(n),
                corrupt,
                vectors: vectors.cloned().collect(),
                shown: BTreeMap::new(),
                whole: BTreeSet::new(),
                least,
            },
        );
    }
    let shown = watch.shown.iter();
    for shown in shown.filter(|shown| !hostile.contains(&shown.holder)) {
        if let Some(view) = views.get_mut(&shown.sess) {
            let holders = view.shown.entry((shown.dealer, shown.which)).or_default();
            holders.insert(shown.holder);
        }
    }
    views
}
