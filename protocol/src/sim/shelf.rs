//! The memo of a world: two generations of results, so that what is old goes.
#![expect(
    clippy::disallowed_types,
    reason = "the members of a world may be on several threads; a hash map is only looked up, never walked"
)]

use std::collections::HashMap;
use std::sync::Mutex;

use conclave_crypto::digest::Digest;

use crate::memo::{Function, Known, Memo};

/// Results of a world's pure functions.
#[derive(Default)]
pub(super) struct Shelf {
    /// By the first bits of the arguments' digest: threads seldom want the same part.
    parts: [Mutex<Part>; PARTS],
}

#[derive(Default)]
struct Part {
    young: HashMap<(Function, Digest), Known>,
    old: HashMap<(Function, Digest), Known>,
}

const PARTS: usize = 16;

/// Results that are kept of each generation in a part: more than 200 members need for one height.
const KEPT: usize = 8192;

impl Shelf {
    fn part(&self, arguments: &Digest) -> &Mutex<Part> {
        let bits = usize::from(arguments.0[0]) % PARTS;
        self.parts.get(bits).expect("the remainder is below it")
    }
}

impl Memo for Shelf {
    fn recall(&self, function: Function, arguments: &Digest) -> Option<Known> {
        let mut part = self.part(arguments).lock().ok()?;
        let name = (function, *arguments);
        if let Some(known) = part.young.get(&name) {
            return Some(Known::clone(known));
        }
        let known = part.old.remove(&name)?;
        part.young.insert(name, Known::clone(&known));
        Some(known)
    }

    fn keep(&self, function: Function, arguments: Digest, result: Known) {
        let Ok(mut part) = self.part(&arguments).lock() else {
            return;
        };
        if part.young.len() >= KEPT {
            part.old = core::mem::take(&mut part.young);
        }
        part.young.insert((function, arguments), result);
    }
}

impl core::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Shelf")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_newest_results_stay_and_the_oldest_go() {
        let shelf = Shelf::default();
        let name = |n: u32| Digest::of("shelf", &[&n.to_le_bytes()]);
        let count = u32::try_from(3 * PARTS * KEPT).expect("small");
        for n in 0..count {
            shelf.keep(Function::Sum, name(n), Arc::new(n));
        }
        let last = shelf.recall(Function::Sum, &name(count - 1));
        assert_eq!(
            last.and_then(|known| known.downcast::<u32>().ok()),
            Some(Arc::new(count - 1))
        );
        assert!(shelf.recall(Function::Sum, &name(0)).is_none());
        assert!(shelf.recall(Function::Record, &name(count - 1)).is_none());
    }
}
