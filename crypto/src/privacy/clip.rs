//! The clamp: no coordinate of a delta counts for more than the charter's `clip`.

/// Clamps every coordinate to `[−limit, limit]` and returns how many it changed.
///
/// The values are finite, `limit` is not negative.
#[inline]
pub(crate) fn clamp(values: &mut [f32], limit: f32) -> u64 {
    let mut changed: u64 = 0;
    for value in values {
        let beyond = value.abs() > limit;
        *value = if beyond {
            limit.copysign(*value)
        } else {
            *value
        };
        changed = changed.wrapping_add(u64::from(beyond));
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_beyond_the_limit_changes() {
        let mut values = [0.5, -3.0, 1.0, -1.0, 1.000_1, 0.0];
        assert_eq!(clamp(&mut values, 1.0), 2);
        let bits = values.map(f32::to_bits);
        assert_eq!(bits, [0.5, -1.0, 1.0, -1.0, 1.0, 0.0].map(f32::to_bits));
    }
}
