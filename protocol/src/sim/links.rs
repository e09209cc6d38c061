//! Which places can reach each other at this moment.

/// Pairs of places with a link between them.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<Vec<bool>>);

/// A link's name: the lower place first.
pub(super) fn link(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

impl Links {
    /// Notes a link; false if it was there.
    pub(super) fn insert(&mut self, link: (usize, usize)) -> bool {
        !core::mem::replace(self.at(link), true)
    }

    /// Forgets a link; false if there was none.
    pub(super) fn remove(&mut self, link: &(usize, usize)) -> bool {
        core::mem::replace(self.at(*link), false)
    }

    /// Whether there is a link.
    pub(super) fn contains(&self, link: &(usize, usize)) -> bool {
        let row = self.0.get(link.1);
        row.and_then(|row| row.get(link.0))
            .copied()
            .unwrap_or(false)
    }

    fn at(&mut self, (lower, higher): (usize, usize)) -> &mut bool {
        for place in self.0.len()..=higher {
            self.0.push(vec![false; place + 1]);
        }
        let row = self.0.get_mut(higher).expect("rows were added above");
        row.get_mut(lower)
            .expect("a row has its own place and all below")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_come_and_go() {
        let mut links = Links::default();
        assert!(!links.contains(&link(3, 1)));
        assert!(links.insert(link(3, 1)) && !links.insert(link(1, 3)));
        assert!(links.contains(&link(1, 3)) && !links.contains(&link(0, 3)));
        assert!(links.remove(&link(3, 1)) && !links.remove(&link(3, 1)));
        assert!(!links.contains(&link(3, 1)));
    }
}
