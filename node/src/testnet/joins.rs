//! Newcomers: when its round begins, each gets a ticket from a living node and starts with it, as any newcomer would.

use std::path::Path;

use conclave_protocol::charter::Charter;

use super::TestnetError;
use super::folders::{Folders, Node};
use super::view::View;
use crate::commands::charter;
use crate::ticket::{self, Terms, Wishes};

/// The nodes that are still to come, with the rounds in which they start.
#[derive(Debug)]
pub struct Joins(Vec<(u32, usize)>);

impl Joins {
    /// All newcomers of a testnet.
    pub fn new(folders: &Folders) -> Self {
        let nodes = folders.nodes.iter().enumerate();
        Self(
            nodes
                .filter_map(|(index, node)| Some((node.joins_in?, index)))
                .collect(),
        )
    }

    /// Whether nobody is to come any more.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// A newcomer that nobody can invite at the moment waits on.
    pub fn put_back(&mut self, round: u32, index: usize) {
        self.0.push((round, index));
    }

    /// All that are still to come, when nobody is left to invite them.
    pub fn give_up(&mut self) -> Vec<usize> {
        let left = std::mem::take(&mut self.0);
        left.into_iter().map(|(_, index)| index).collect()
    }

    /// The newcomers whose round has begun under what the living nodes say.
    pub fn due(&mut self, views: &[Option<View>]) -> Vec<(u32, usize)> {
        let now = views.iter().flatten().map(|view| view.round).max();
        let begun = |round: u32| now.is_some_and(|now| now >= round);
        let (due, later) = self.0.iter().partition(|(round, _)| begun(*round));
        self.0 = later;
        due
    }
}

/// The first node that can admit somebody: a member that says so.
pub fn sponsor(views: &[Option<View>]) -> Option<usize> {
    let member = |view: &Option<View>| view.as_ref().is_some_and(|view| view.name.is_some());
    views.iter().position(member)
}

/// Makes a ticket in the name of the sponsor and enters the newcomer's folder by it.
pub fn invite(sponsor: &Node, newcomer: &Node) -> Result<(), TestnetError> {
    let terms = Terms {
        uses: 1,
        expires: 0,
        invitee: None,
    };
    let ticket = ticket::issue(&sponsor.dir, charter_of(&sponsor.dir)?, &terms)?;
    let wishes = Wishes {
        name: newcomer.name.clone(),
        ..Wishes::default()
    };
    ticket::accept(&ticket, &newcomer.dir, &wishes, ticket::now_ms())?;
    Ok(())
}

fn charter_of(dir: &Path) -> Result<Charter, TestnetError> {
    let path = dir.join(charter::FILE);
    let text = std::fs::read_to_string(&path).map_err(|error| TestnetError::io(&path, error))?;
    Ok(Charter::parse(&text)?)
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::view;
    use super::*;

    #[test]
    fn newcomers_start_when_the_first_node_is_in_their_round() {
        let mut joins = Joins(vec![(2, 5), (4, 6), (2, 7)]);
        assert_eq!(joins.due(&[None, None]), []);
        assert_eq!(joins.due(&[view(1, "submit"), None]), []);
        assert_eq!(
            joins.due(&[view(1, "open"), view(2, "train")]),
            [(2, 5), (2, 7)]
        );
        assert_eq!(joins.due(&[view(3, "train"), view(3, "train")]), []);
        assert!(!joins.is_over());
        assert_eq!(joins.due(&[view(5, "train")]), [(4, 6)]);
        assert!(joins.is_over());
        joins.put_back(4, 6);
        assert_eq!(joins.due(&[view(5, "train")]), [(4, 6)]);
        joins.put_back(4, 6);
        assert_eq!(joins.give_up(), [6]);
        assert!(joins.is_over());
    }

    #[test]
    fn only_a_member_can_invite() {
        let newcomer = view(3, "train").map(|view| View { name: None, ..view });
        let member = view(3, "train").map(|view| View {
            name: Some("oslo".to_owned()),
            ..view
        });
        assert_eq!(sponsor(&[None, newcomer.clone(), member]), Some(2));
        assert_eq!(sponsor(&[None, newcomer]), None);
    }
}
