//! The timers of a charter (PROTOCOL.md, section 9). Correctness never depends on them.

use crate::time::Span;

/// How patiently a federation waits, in milliseconds each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// How long the first height waits for all founders once a quorum is connected.
    pub genesis: Span,
    /// How long a session's set-up may take.
    pub setup: Span,
    /// The least time to submit.
    pub submit_min: Span,
    /// The most time to submit, and the first round's.
    pub submit_max: Span,
    /// So long without news, and the phase's stragglers are no longer waited for.
    pub quiet: Span,
    /// Between two signs of life.
    pub heartbeat: Span,
    /// How long to wait for announced vectors.
    pub have: Span,
    /// How long to wait for reveals.
    pub reveal: Span,
    /// Between two rounds of anti-entropy.
    pub sync: Span,
    /// How long a finished member stays to serve others.
    pub linger: Span,
    /// A consensus round's patience.
    pub consensus_base: Span,
    /// What each further consensus round adds.
    pub consensus_step: Span,
}

impl Timers {
    /// For a federation on one machine or network.
    pub const fn testnet() -> Self {
        Self {
            genesis: Span::seconds(120),
            setup: Span::seconds(15),
            submit_min: Span::seconds(60),
            submit_max: Span::seconds(600),
            quiet: Span::seconds(15),
            heartbeat: Span::seconds(2),
            have: Span::seconds(10),
            reveal: Span::seconds(10),
            sync: Span::seconds(1),
            linger: Span::seconds(10),
            consensus_base: Span::seconds(1),
            consensus_step: Span(500),
        }
    }

    /// Every timer with its key in the file.
    pub(crate) const fn named(&self) -> [(&'static str, Span); 12] {
        [
            ("genesis_ms", self.genesis),
            ("setup_ms", self.setup),
            ("submit_min_ms", self.submit_min),
            ("submit_max_ms", self.submit_max),
            ("quiet_ms", self.quiet),
            ("heartbeat_ms", self.heartbeat),
            ("have_ms", self.have),
            ("reveal_ms", self.reveal),
            ("sync_ms", self.sync),
            ("linger_ms", self.linger),
            ("consensus_base_ms", self.consensus_base),
            ("consensus_step_ms", self.consensus_step),
        ]
    }
}

impl Default for Timers {
    /// For institutions across a continent.
    fn default() -> Self {
        Self {
            genesis: Span::seconds(3600),
            setup: Span::seconds(60),
            submit_min: Span::seconds(120),
            submit_max: Span::seconds(86_400),
            quiet: Span::seconds(60),
            heartbeat: Span::seconds(10),
            have: Span::seconds(30),
            reveal: Span::seconds(30),
            sync: Span::seconds(5),
            linger: Span::seconds(600),
            consensus_base: Span::seconds(3),
            consensus_step: Span::seconds(1),
        }
    }
}
