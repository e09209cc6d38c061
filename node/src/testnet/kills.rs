//! Which nodes die, and when: chosen by the seed among the living, between their dealing and their submitting.

use super::plan::At;
use super::view::View;
use crate::learn::data::Chance;

const STREAM_KILLS: u64 = 90;

/// The kills that are still to come.
#[derive(Debug)]
pub struct Kills {
    /// All nodes in the order in which they would die.
    order: Vec<usize>,
    pending: Vec<At>,
}

/// What is to be done about a kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strike {
    /// This node dies now.
    Now {
        /// Which.
        node: usize,
        /// In this round.
        round: u32,
    },
    /// The round went on before a node could be killed in it.
    Missed(At),
}

impl Kills {
    /// The schedule for so many nodes.
    pub fn new(kills: &[At], nodes: usize, seed: u64) -> Self {
        let mut order: Vec<usize> = (0..nodes).collect();
        Chance::new(seed, STREAM_KILLS).shuffle(&mut order);
        Self {
            order,
            pending: kills.to_vec(),
        }
    }

    /// Whether a kill may be due so soon that the nodes must be watched closely.
    pub fn is_near(&self, round: u32) -> bool {
        self.pending.iter().any(|kill| kill.round <= round + 1)
    }

    /// The next strike under what the living nodes say (`None` for dead or silent ones).
    pub fn next(&mut self, views: &[Option<View>]) -> Option<Strike> {
        for index in 0..self.pending.len() {
            let kill = self.pending[index];
            let trains = |node: usize| {
                views[node]
                    .as_ref()
                    .is_some_and(|view| view.trains(kill.round))
            };
            if let Some(node) = self.order.iter().copied().find(|&node| trains(node)) {
                self.pending[index].count -= 1;
                self.pending.retain(|kill| kill.count > 0);
                return Some(Strike::Now {
                    node,
                    round: kill.round,
                });
            }
            let living = || views.iter().flatten();
            if living().next().is_some() && living().all(|view| has_passed(view, kill.round)) {
                self.pending.remove(index);
                return Some(Strike::Missed(kill));
            }
        }
        None
    }
}

/// Whether a node trains no more in this round. While the sum of the round before is opened, this one is yet to come.
fn has_passed(view: &View, round: u32) -> bool {
    let later = ["submit", "decide"];
    view.finished
        || view.round > round
        || view.decided() >= round
        || (view.round == round && later.contains(&view.phase.as_str()))
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::view;
    use super::*;

    #[test]
    fn a_node_dies_while_it_trains_in_that_round_and_no_other_follows() {
        let mut kills = Kills::new(&[At { count: 1, round: 2 }], 3, 7);
        let early = [view(1, "train"), view(1, "submit"), view(2, "deal")];
        assert!(!kills.is_near(0) && kills.is_near(1));
        assert_eq!(kills.next(&early), None);
        let due = [view(2, "deal"), view(2, "train"), None];
        assert_eq!(kills.next(&due), Some(Strike::Now { node: 1, round: 2 }));
        assert_eq!(kills.next(&due), None);
        assert!(!kills.is_near(9));
    }

    #[test]
    fn the_seed_chooses_and_a_missed_window_is_said() {
        let all = || {
            vec![
                view(1, "train"),
                view(1, "train"),
                view(1, "train"),
                view(1, "train"),
            ]
        };
        let first = |seed| Kills::new(&[At { count: 1, round: 1 }], 4, seed).next(&all());
        let chosen: Vec<_> = (0..20).map(first).collect();
        assert_eq!(chosen, (0..20).map(first).collect::<Vec<_>>());
        assert!(chosen.iter().any(|strike| *strike != chosen[0]));
        let kill = At { count: 1, round: 1 };
        let mut kills = Kills::new(&[kill], 2, 0);
        for early in ["deal", "reveal", "open"] {
            assert_eq!(kills.next(&[view(1, "submit"), view(1, early)]), None);
        }
        let gone = [view(1, "submit"), view(2, "train")];
        assert_eq!(kills.next(&gone), Some(Strike::Missed(kill)));
        assert_eq!(kills.next(&gone), None);
    }
}
