//! The gradient of a batch's loss: back through the whole pass, or layer by layer with each one computed again.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

use super::Model;
use super::adapted::Moving;
use super::device::pass::DevicePass;
use super::processor::ProcessorPass;
use crate::learn::batch::Batch;
use crate::learn::fused::head::Score;

impl Model {
    /// The gradient of `factor · Σ nll` over the scored tokens of a batch by what moves, and the exact score.
    ///
    /// With `again`, no more is kept on the way up than what enters each layer; on the way down a layer is computed
    /// again when its gradient is due (gradient checkpointing: Chen et al., arXiv 1604.06174). The bits of an adapter's
    /// gradient are the same.
    ///
    /// # Panics
    /// As [`Self::score`] does.
    pub fn gradient(
        &self,
        batch: &Batch,
        moving: &Moving,
        factor: f32,
        again: bool,
    ) -> Result<(GradStore, Score)> {
        let batch = &*moving.in_front(batch);
        let carried = self.carried(batch, moving);
        let Some(there) = &self.there else {
            return ProcessorPass::new(carried).gradient(factor, again);
        };
        let mut pass = DevicePass::new(carried, there)?;
        if again {
            return self.layer_by_layer(&mut pass, factor);
        }
        let (loss, score) = pass.loss(factor)?;
        Ok((loss.backward()?, score))
    }

    fn layer_by_layer(&self, pass: &mut DevicePass<'_>, factor: f32) -> Result<(GradStore, Score)> {
        let mut x = self.begin(pass)?;
        let mut inputs = Vec::with_capacity(self.config.layers);
        for layer in 0..self.config.layers {
            inputs.push(x.clone());
            x = self.layer(layer, x, pass)?.detach();
        }
        let x = variable(&x)?;
        let (loss, score) = pass.end_loss(&x, factor)?;
        let mut all = loss.backward()?;
        drop(loss);
        let mut above = below(&mut all, &x)?;
        for (layer, input) in inputs.into_iter().enumerate().rev() {
            // What enters the first layer is part of the graph itself, where anything moves there.
            let x = if layer == 0 { input } else { variable(&input)? };
            let y = self.layer(layer, x.clone(), pass)?;
            let mut gradient = (&y * &above)?.backward()?;
            gradient.remove(&above);
            if layer > 0 {
                above = below(&mut gradient, &x)?;
            }
            all.extend(gradient)?;
        }
        Ok((all, score))
    }
}

/// The same numbers, from where on a gradient is wanted.
fn variable(x: &Tensor) -> Result<Tensor> {
    Ok(Var::from_tensor(x)?.into_inner())
}

/// The gradient of what entered a layer; candle leaves that of a variable tied to what it was computed from.
fn below(gradient: &mut GradStore, x: &Tensor) -> Result<Tensor> {
    let found = gradient.remove(x).map(|found| found.detach());
    found.ok_or_else(|| candle_core::Error::Msg("a layer has no gradient by its input".to_owned()))
}

#[cfg(test)]
mod tests {
    use conclave_protocol::charter::NonLinearity;

    use super::*;
    use crate::learn::data::Example;
    use crate::learn::dropout::Dropout;
    use crate::learn::fixture::{adapter, attached, bert, bottleneck, gpt2, llama, prompt, tiny};
    use crate::learn::flatten::Flat;
    use crate::learn::model::adapted::MethodTensors;
    use crate::learn::peft::uniform;
    use crate::learn::weights::quantised::Precision;

    /// The gradient by what is kept, and by what is computed again.
    fn both(
        model: &Model,
        flat: &Flat,
        values: &[f32],
        moving: impl Fn(&Tensors) -> Moving,
    ) -> [Vec<f32>; 2] {
        let label = usize::from(model.config().classifies());
        let make = |len: u32, step: u32| {
            let mut ids: Vec<u32> = (0..len).map(|i| (i * step + i * i) % 32).collect();
            let mut scored = vec![label == 0; ids.len()];
            if label > 0 {
                ids.push(step % 3);
                scored.push(true);
            }
            Example { ids, scored }
        };
        let batch = Batch::pack(&[make(9, 5), make(40, 3)]);
        let run = |again| {
            let tensors = flat.tensors(values, |_| true).unwrap();
            let moving = moving(&tensors);
            let (gradient, score) = model.gradient(&batch, &moving, 0.25, again).unwrap();
            let mut sum = vec![0.0; flat.len()];
            let missing = flat.add_gradients(&tensors, &gradient, &mut sum).unwrap();
            assert_eq!(missing, None);
            (score.nats, sum)
        };
        let (kept, again) = (run(false), run(true));
        assert_eq!(kept.0.to_bits(), again.0.to_bits(), "the score");
        assert!(kept.1.iter().any(|x| x.abs() > 1e-3));
        [kept.1, again.1]
    }

    type Tensors = std::collections::BTreeMap<String, Tensor>;

    #[test]
    fn computing_again_changes_no_bit_of_an_adapters_gradient() {
        for model in [
            tiny(true),
            tiny(false),
            llama(false, r#", "model_type": "qwen3""#),
            gpt2("gelu_new"),
            bert(true),
            bert(false),
            tiny(true).elsewhere(Precision::F32),
            llama(false, r#", "model_type": "mistral", "sliding_window": 5"#)
                .elsewhere(Precision::F32),
            gpt2("gelu").elsewhere(Precision::F32),
            bert(true).elsewhere(Precision::F32),
        ] {
            for (adapter, share) in [
                (adapter(3, &model), 0.0),
                (adapter(3, &model), 0.25),
                (attached(bottleneck(5, NonLinearity::Silu), &model), 0.0),
                (attached(prompt(6), &model), 0.0),
            ] {
                let mut values = vec![0.0; adapter.flat().len()];
                uniform([9; 32], 0.3, &mut values);
                let [kept, again] = both(&model, adapter.flat(), &values, |tensors| {
                    let mut bound = adapter.bind(tensors);
                    if let MethodTensors::Lora(lora) = &mut bound.method {
                        lora.dropout = (share > 0.0).then(|| Dropout::new(share, [1; 32]));
                    }
                    Moving::Adapter(bound)
                });
                for slot in adapter.flat().slots() {
                    let bits = |of: &[f32]| -> Vec<u32> {
                        of[slot.range.clone()].iter().map(|x| x.to_bits()).collect()
                    };
                    let model = model.config().model_type();
                    assert_eq!(bits(&kept), bits(&again), "{model}: {}", slot.name);
                }
            }
            if model.config().classifies() {
                continue;
            }
            let tensors = model.tensors().into_iter();
            let flat = Flat::new(tensors.map(|(name, w)| (name, w.shape().to_vec())));
            let tensors = model.tensors();
            let values = flat
                .slots()
                .iter()
                .flat_map(|slot| tensors[&slot.name].values());
            let values: Vec<f32> = values.copied().collect();
            let [kept, again] = both(&model, &flat, &values, |tensors| {
                Moving::All(tensors.clone())
            });
            // The rows of a tied embedding are added up in another order.
            for (kept, again) in kept.iter().zip(&again) {
                assert!(
                    (kept - again).abs() <= 1e-6 * kept.abs().max(1.0),
                    "{kept} and {again}"
                );
            }
        }
    }
}
