//! What hostile members do.

/// What a hostile member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Script {
    /// Advertises one mask key to some and another one to the rest.
    ForkedAdvert,
    /// Binds itself to one list of leaves before some and to another one before the rest.
    ForkedDeal,
    /// Acknowledges some dealings before some and the others before the rest.
    ForkedAck,
    /// Announces one masked vector to some and another one to the rest.
    ForkedCommit,
    /// Votes for a record before some and for nothing, or for another one, before the rest.
    ForkedVote,
    /// Proposes one record to some and another one to the rest, and votes for both.
    ForkedProposal,
    /// Deals shares that fit their leaves and lie on no polynomial.
    FalseDealing,
    /// Seals boxes that as many holders cannot open as it can afford, then keeps its own shares back.
    FalseBoxes,
    /// Leaves an honest member out of the survivors that it proposes.
    LeaveOut,
    /// Proposes as few survivors as the rules allow, its like among them; and fewer, which the rules forbid.
    Isolate,
    /// Keeps its shares back when the sum is to be opened.
    Withhold,
    /// Says again what was said before, in the same session, in later ones, and under its own name.
    Replay,
    /// Says what is longer than its kind allows.
    Oversized,
    /// Says what is no message, and signs bodies that are none.
    Malformed,
    /// Submits a vector that makes the sum leave its range.
    OutOfRange,
    /// Commits to sums of shards that are not those of the vectors, and serves them.
    FalseSums,
    /// Publishes tags that are not those of its vector.
    FalseTags,
    /// Announces a vector, says that it holds it, and hands no shard of it to anybody.
    Unserved,
    /// Announces a vector and hands its first shard to nobody.
    Gap,
    /// Says that it holds all shards of all vectors.
    Claims,
    /// Says by turns that it holds shards and that it holds none.
    TakesBack,
    /// A control, and no attack: decides by signing once and starting again instead of by consensus.
    SignOnce,
    /// A control, and no attack: judges a null record anew in every consensus round.
    Unlatched,
}

/// All scripts of attacks that any federation can suffer.
pub const SCRIPTS: [Script; 15] = [
    Script::ForkedAdvert,
    Script::ForkedDeal,
    Script::ForkedAck,
    Script::ForkedCommit,
    Script::ForkedVote,
    Script::ForkedProposal,
    Script::FalseDealing,
    Script::FalseBoxes,
    Script::LeaveOut,
    Script::Isolate,
    Script::Withhold,
    Script::Replay,
    Script::Oversized,
    Script::Malformed,
    Script::OutOfRange,
];

/// Scripts of attacks on sums in shards.
pub const SHARD_SCRIPTS: [Script; 6] = [
    Script::FalseSums,
    Script::FalseTags,
    Script::Unserved,
    Script::Gap,
    Script::Claims,
    Script::TakesBack,
];

impl Script {
    /// Its name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ForkedAdvert => "forked advert",
            Self::ForkedDeal => "forked deal",
            Self::ForkedAck => "forked acknowledgements",
            Self::ForkedCommit => "forked commit",
            Self::ForkedVote => "forked vote",
            Self::ForkedProposal => "forked proposal",
            Self::FalseDealing => "false dealing",
            Self::FalseBoxes => "false boxes",
            Self::LeaveOut => "leave out",
            Self::Isolate => "isolate",
            Self::Withhold => "withhold",
            Self::Replay => "replay",
            Self::Oversized => "oversized",
            Self::Malformed => "malformed",
            Self::OutOfRange => "out of range",
            Self::FalseSums => "false sums",
            Self::FalseTags => "false tags",
            Self::Unserved => "unserved",
            Self::Gap => "gap",
            Self::Claims => "claims",
            Self::TakesBack => "takes back",
            Self::SignOnce => "sign once",
            Self::Unlatched => "unlatched",
        }
    }

    /// Whether its act can spend a round: it is done in one session of a run only.
    pub const fn spends(self) -> bool {
        matches!(
            self,
            Self::FalseDealing | Self::FalseBoxes | Self::Withhold | Self::OutOfRange
        )
    }
}
