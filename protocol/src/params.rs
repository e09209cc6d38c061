//! The numbers and names that follow from the charter and the chain: quorums, session ids, weight classes.

use conclave_crypto::digest::Digest;

use crate::charter::Charter;
use crate::layout::Layout;
use crate::names::{Factor, Height, Round, SessId, SumId};

/// R1. `t = q = ⌊2n/3⌋ + 1`: how many must sign, and how many shares open a secret. All of them for n ≤ 3.
pub fn quorum(n: usize) -> usize {
    n.saturating_mul(2)
        .checked_div(3)
        .unwrap_or(0)
        .saturating_add(1)
        .min(n)
}

/// R1. `f = ⌊(n − 1)/3⌋`: how many may be corrupt.
pub fn faults(n: usize) -> usize {
    n.saturating_sub(1).checked_div(3).unwrap_or(0)
}

/// R2. No sum of fewer members is opened at a height of n members: max(the charter's value, f + 2).
pub fn survivors_min(charter: &Charter, n: usize) -> usize {
    let asked = usize::try_from(charter.aggregation.min_survivors).unwrap_or(usize::MAX);
    asked.max(faults(n).saturating_add(2))
}

/// R3. `sess = H(charter ‖ epoch ‖ height ‖ digest of record height − 2)`: binds the members of the height.
pub fn session_id(
    charter: &Digest,
    epoch: u32,
    height: Height,
    record_before_last: &Digest,
) -> SessId {
    SessId(Digest::of(
        "conclave/v1/sess",
        &[
            charter.as_bytes(),
            &epoch.to_le_bytes(),
            &height.0.to_le_bytes(),
            record_before_last.as_bytes(),
        ],
    ))
}

/// R4. `sid = H(sess ‖ digest of record height − 1 ‖ adapter ‖ configuration)`: binds sharers and model.
pub fn sum_id(
    sess: &SessId,
    record_before: &Digest,
    adapter: &Digest,
    configuration: &Digest,
) -> SumId {
    SumId(Digest::of(
        "conclave/v1/sid",
        &[
            sess.0.as_bytes(),
            record_before.as_bytes(),
            adapter.as_bytes(),
            configuration.as_bytes(),
        ],
    ))
}

/// R4. What the members of a round must agree on for their vectors to add up.
pub fn configuration_digest(
    charter: &Charter,
    shape: &Digest,
    round: Round,
    factor: Factor,
) -> Digest {
    let terms = &charter.aggregation;
    Digest::of(
        "conclave/v1/configuration",
        &[
            &round.0.to_le_bytes(),
            &[match factor {
                Factor::A => 0,
                Factor::B => 1,
                Factor::All => 2,
            }],
            shape.as_bytes(),
            &terms.members_max.to_le_bytes(),
            &terms.weight_max.to_le_bytes(),
            &terms.ring_bits.to_le_bytes(),
            &charter.round.local_steps.to_le_bytes(),
            terms.clip.to_string().as_bytes(),
        ],
    )
}

/// The largest power of two that is at most `min(weight_max, max(1, examples / weight_unit))`.
pub fn weight_class(charter: &Charter, examples: u64) -> u32 {
    let units = examples
        .checked_div(charter.aggregation.weight_unit)
        .unwrap_or(1)
        .max(1);
    let most = units.min(u64::from(charter.aggregation.weight_max)).max(1);
    let power = most.ilog2().min(31);
    1u32.checked_shl(power).unwrap_or(1)
}

/// Which coordinates a round trains: B in odd rounds, A in even ones, all where there are no factors.
pub fn factor(layout: &Layout, round: Round) -> Factor {
    if !layout.has_factors() {
        Factor::All
    } else if round.0.is_multiple_of(2) {
        Factor::A
    } else {
        Factor::B
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorums_of_small_federations() {
        let table: Vec<_> = (1..=10).map(|n| (quorum(n), faults(n))).collect();
        assert_eq!(
            table,
            [
                (1, 0),
                (2, 0),
                (3, 0),
                (3, 1),
                (4, 1),
                (5, 1),
                (5, 2),
                (6, 2),
                (7, 2),
                (7, 3)
            ]
        );
    }
}
