//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) on the flat vector, and the clipping of gradients by their norm.

/// The optimiser. Its moments are born at zero: a new one for every round.
#[derive(Debug)]
pub struct AdamW {
    moments: Moments,
    weight_decay: f64,
}

/// What the optimiser remembers of the gradients.
#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
pub struct Moments {
    /// Running mean of each coordinate's gradient.
    pub first: Vec<f32>,
    /// Running mean of its square.
    pub second: Vec<f32>,
    /// Steps taken.
    pub steps: i32,
}

impl AdamW {
    /// Moments for a vector of this length; beta 0.9 and 0.999, epsilon 1e-8.
    pub fn new(len: usize, weight_decay: f64) -> Self {
        let moments = Moments {
            first: vec![0.0; len],
            second: vec![0.0; len],
            steps: 0,
        };
        Self {
            moments,
            weight_decay,
        }
    }

    /// What it remembers.
    pub fn moments(&self) -> &Moments {
        &self.moments
    }

    /// Goes on from what another one remembered; `false` if that was for a vector of another length.
    pub fn resume(&mut self, moments: Moments) -> bool {
        let len = self.moments.first.len();
        let fits = moments.first.len() == len && moments.second.len() == len && moments.steps >= 0;
        if fits {
            self.moments = moments;
        }
        fits
    }

    /// One step on the coordinates.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the step size is applied in the parameters' precision, as PyTorch does"
    )]
    pub fn step(&mut self, values: &mut [f32], gradient: &[f32], rate: f64) {
        let Moments {
            first,
            second,
            steps,
        } = &mut self.moments;
        *steps = steps.saturating_add(1);
        let size = (rate / (1.0 - 0.9f64.powi(*steps))) as f32;
        let root = (1.0 - 0.999f64.powi(*steps)).sqrt() as f32;
        let keep = (1.0 - rate * self.weight_decay) as f32;
        let moments = first.iter_mut().zip(second);
        for ((value, g), (m, v)) in values.iter_mut().zip(gradient).zip(moments) {
            *m = 0.9 * *m + 0.1 * g;
            *v = 0.999 * *v + 0.001 * g * g;
            *value = *value * keep - size * *m / (v.sqrt() / root + 1e-8);
        }
    }
}

/// Scales the gradient down to norm `most` if it is longer; gives the norm that it had.
pub fn clip(gradient: &mut [f32], most: f64) -> f64 {
    let norm = gradient
        .iter()
        .map(|g| f64::from(*g) * f64::from(*g))
        .sum::<f64>()
        .sqrt();
    if norm > most {
        #[expect(clippy::cast_possible_truncation, reason = "a factor below one")]
        let factor = (most / (norm + 1e-6)) as f32;
        for g in gradient {
            *g *= factor;
        }
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_has_the_size_of_the_rate() {
        let mut values = [1.0f32, 1.0];
        let mut adam = AdamW::new(2, 0.0);
        adam.step(&mut values, &[0.5, -3.0], 0.01);
        assert!((values[0] - 0.99).abs() < 1e-6 && (values[1] - 1.01).abs() < 1e-6);
        // Second step, by hand: m = 0.9·0.05 + 0.1·0.5 = 0.095, v = 0.999·0.00025 + 0.00025 = 0.00049975.
        adam.step(&mut values, &[0.5, -3.0], 0.01);
        assert!((values[0] - 0.98).abs() < 1e-6, "{}", values[0]);
    }

    #[test]
    fn clipping_keeps_the_direction_and_reports_the_norm() {
        let mut gradient = [3.0f32, 4.0];
        assert!((clip(&mut gradient, 1.0) - 5.0).abs() < 1e-9);
        assert!((gradient[0] - 0.6).abs() < 1e-5 && (gradient[1] - 0.8).abs() < 1e-5);
        assert!((clip(&mut gradient, 2.0) - 1.0).abs() < 1e-5);
        assert!((gradient[0] - 0.6).abs() < 1e-5);
    }
}
