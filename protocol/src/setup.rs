//! What a member is made of when it opens.

use conclave_crypto::sign::IdentityKey;

use crate::charter::Charter;
use crate::floats::Floats;
use crate::layout::Layout;
use crate::memo::Remembered;
use crate::message::Invite;

/// Everything that a member needs to know of its world besides its durable state.
#[derive(Debug)]
pub struct Setup {
    /// The agreement.
    pub charter: Charter,
    /// Who we are.
    pub identity: IdentityKey,
    /// Our name in a Join, for people; founders have theirs in the charter.
    pub name: String,
    /// How many examples we train on: gives the public weight class.
    pub examples: u64,
    /// The adapter's shape.
    pub layout: Layout,
    /// The adapter before training, equal for all members.
    pub initial: Floats,
    /// For one who is no founder: the invitation of the ticket.
    pub invite: Option<Invite>,
    /// Whether journal, outbox and consensus log are known to be whole. If not, the member sits out the sessions in
    /// which it may have spoken (R60).
    pub intact: bool,
    /// Results that a world remembers for all its members; a node has none.
    pub memo: Remembered,
}

/// Why a member cannot open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The layout contradicts itself or the initial adapter.
    #[error(
        "the adapter's layout of {len} coordinates does not fit an initial vector of {initial}; was the model changed?"
    )]
    Layout {
        /// Coordinates of the layout.
        len: usize,
        /// Coordinates of the vector.
        initial: usize,
    },
    /// The stored ledger is not a chain of this charter.
    #[error(
        "the stored ledger is damaged at height {height}: {what}; restore the folder or begin with an empty one"
    )]
    Ledger {
        /// The height.
        height: u64,
        /// What is wrong.
        what: String,
    },
    /// A stored value cannot be read.
    #[error("the stored {what} is damaged; restore the folder or begin with an empty one")]
    Stored {
        /// Which.
        what: &'static str,
    },
}
