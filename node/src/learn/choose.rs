//! Which of several continuations a model finds likeliest: how a decoder chooses a label.

use candle_core::Result;

use super::model::decode::Decoding;

/// The index of the likeliest of the continuations of `prompt`, by the sum of their tokens' log-probabilities; the
/// first of equals. `decoding` is any text in the making; what it holds is forgotten.
///
/// # Panics
/// If the prompt, the choices or one of them is empty, or they don't fit the context.
pub fn choose(decoding: &mut Decoding<'_>, prompt: &[u32], choices: &[Vec<u32>]) -> Result<usize> {
    decoding.rewind(0);
    let first = decoding.extend(prompt)?;
    let all = log_sum(&first);
    let mut best = (0, f64::NEG_INFINITY);
    for (index, choice) in choices.iter().enumerate() {
        let mut likelihood = f64::from(first[choice[0] as usize]) - all;
        let inside = &choice[..choice.len() - 1];
        if !inside.is_empty() {
            let logits = decoding.extend_all(inside)?;
            let rows = logits.chunks_exact(first.len());
            let rest = rows
                .zip(&choice[1..])
                .map(|(row, token)| f64::from(row[*token as usize]) - log_sum(row));
            likelihood += rest.sum::<f64>();
            decoding.rewind(prompt.len());
        }
        if likelihood > best.1 {
            best = (index, likelihood);
        }
    }
    Ok(best.0)
}

/// What to take from a logit, so that it becomes the logarithm of its token's probability.
fn log_sum(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - max).exp())
        .sum();
    f64::from(max) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::batch::Batch;
    use crate::learn::data::Example;
    use crate::learn::fixture::tiny;
    use crate::learn::model::adapted::Moving;

    #[test]
    fn the_choice_is_that_of_the_lowest_loss() {
        let model = tiny(true);
        let choices = [
            vec![3, 1],
            vec![4, 5, 1],
            vec![6, 2],
            vec![4, 5, 7, 1],
            vec![9, 1],
        ];
        let mut decoding = Decoding::new(&model, None);
        for prompt in [[0, 5, 9], [0, 7, 7], [0, 2, 30], [0, 11, 12]] {
            let nats = |choice: &Vec<u32>| {
                let ids: Vec<u32> = prompt.iter().chain(choice).copied().collect();
                let scored = (0..ids.len()).map(|at| at >= prompt.len()).collect();
                let batch = Batch::pack([&Example { ids, scored }]);
                model.score(&batch, &Moving::Nothing).unwrap().nats
            };
            let losses: Vec<f64> = choices.iter().map(nats).collect();
            let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
            let index = choose(&mut decoding, &prompt, &choices).unwrap();
            assert!(
                (losses[index] - lowest).abs() < 1e-5,
                "{index} of {losses:?}"
            );
        }
    }
}
