//! How long what everybody says to everybody gathers before it is said. R12, R16

use crate::session::Session;
use crate::time::Span;

/// How long the first that is to be said gathers.
pub(crate) const GATHER: Span = Span(200);

/// Members for each time that a pause is taken as long.
const MEMBERS: usize = 40;

impl Session {
    /// How long what comes later gathers, where nobody waits for it: the longer, the more listen.
    pub(super) fn gathering(&self) -> Span {
        self.longer(GATHER)
    }

    /// What is a pause among few members, among these.
    pub(crate) fn longer(&self, pause: Span) -> Span {
        let times = u64::try_from(self.roster.len() / MEMBERS).unwrap_or(u64::MAX);
        Span(pause.0.saturating_mul(times.max(1)))
    }
}
