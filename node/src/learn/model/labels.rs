//! The classification head: a row for each example in, a number for each label and the cross-entropy out.

use candle_core::{D, Result, Tensor};

use crate::learn::fused::head::Score;

/// A head as tensors, frozen or moving.
#[derive(Debug, Clone)]
pub struct LabelHead {
    /// `(labels, hidden)`.
    pub weight: Tensor,
    /// One for each label.
    pub bias: Tensor,
}

impl LabelHead {
    /// A number for each label, `(examples, labels)`, given the examples' rows.
    pub fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        rows.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)
    }

    /// `factor · Σ nll` of the examples' labels, given the examples' rows, and the exact score.
    pub fn loss(&self, rows: &Tensor, labels: &[u32], factor: f32) -> Result<(Tensor, Score)> {
        let logits = self.logits(rows)?;
        let score = score(&logits.to_vec2()?, labels);
        let largest = logits.max_keepdim(D::Minus1)?.detach();
        let shifted = logits.broadcast_sub(&largest)?;
        let sums = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
        let index = Tensor::new(labels, rows.device())?.unsqueeze(1)?;
        let nats = (sums - shifted.gather(&index, 1)?)?.sum_all()?;
        Ok(((nats * f64::from(factor))?, score))
    }
}

/// The exact score of examples' logits, given their labels.
pub fn score(logits: &[Vec<f32>], labels: &[u32]) -> Score {
    let mut score = Score::default();
    for (row, &label) in logits.iter().zip(labels) {
        let chosen = f64::from(row[label as usize]);
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let max = f64::from(max);
        let sum: f64 = row.iter().map(|x| (f64::from(*x) - max).exp()).sum();
        score.nats += max - chosen + sum.ln();
        score.hits += u64::from(chosen >= max);
    }
    score
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn the_loss_is_that_of_candle_and_its_gradient_sums_to_nothing_over_the_labels() {
        let device = Device::Cpu;
        let rows = Tensor::new(&[[0.5f32, -1.0], [2.0, 0.25], [100.0, -3.0]], &device).unwrap();
        let weight = Var::new(&[[1.0f32, 0.5], [-0.5, 2.0], [0.25, 0.0]], &device).unwrap();
        let head = LabelHead {
            weight: weight.as_tensor().clone(),
            bias: Tensor::new(&[0.1f32, 0.0, -0.2], &device).unwrap(),
        };
        let labels = [0, 1, 0];
        let (loss, score) = head.loss(&rows, &labels, 1.0 / 3.0).unwrap();
        let logits = rows.matmul(&head.weight.t().unwrap()).unwrap();
        let logits = logits.broadcast_add(&head.bias).unwrap();
        let targets = Tensor::new(&labels[..], &device).unwrap();
        let want = candle_nn::loss::cross_entropy(&logits, &targets).unwrap();
        let want = want.to_scalar::<f32>().unwrap();
        assert!((loss.to_scalar::<f32>().unwrap() - want).abs() < 1e-6);
        assert!((score.nats / 3.0 - f64::from(want)).abs() < 1e-6);
        assert_eq!(score.hits, 2);
        let gradients = loss.backward().unwrap();
        let gradient = gradients.get(&weight).unwrap().to_vec2::<f32>().unwrap();
        assert!(gradient[0][0].abs() > 1e-2);
        for column in 0..2 {
            let sum: f32 = gradient.iter().map(|row| row[column]).sum();
            assert!(sum.abs() < 1e-5, "{sum}");
        }
    }
}
