//! The one place where tensors become one vector: sorted by name, row-major, f32.
//!
//! Every member flattens in the same order, or their sums would mix coordinates; so the order is that of the names
//! and of nothing else, and the digest of names and shapes stands in every configuration digest.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};
use conclave_crypto::digest::Digest;
use conclave_crypto::fixed::adapter_digest;
use conclave_protocol::layout::Layout;
use conclave_protocol::names::Factor;

/// A tensor's place in the vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its full name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its coordinates.
    pub range: Range<usize>,
}

/// The order of a set of tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flat {
    slots: Vec<Slot>,
    len: usize,
}

impl Flat {
    /// Orders tensors by name.
    pub fn new(tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let sorted: BTreeMap<_, _> = tensors.into_iter().collect();
        let mut slots = Vec::with_capacity(sorted.len());
        let mut len = 0;
        for (name, shape) in sorted {
            let end = len + shape.iter().product::<usize>();
            let range = len..end;
            slots.push(Slot { name, shape, range });
            len = end;
        }
        Self { slots, len }
    }

    /// The places, ascending.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Coordinates in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing moves.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The digest over the sorted (name, shape), each with its length in front.
    pub fn shape_digest(&self) -> Digest {
        let mut bytes = Vec::new();
        for slot in &self.slots {
            bytes.extend((slot.name.len() as u64).to_le_bytes());
            bytes.extend(slot.name.as_bytes());
            bytes.extend((slot.shape.len() as u64).to_le_bytes());
            for &size in &slot.shape {
                bytes.extend((size as u64).to_le_bytes());
            }
        }
        Digest::of("conclave/v1/shape", &[&bytes])
    }

    /// Where the factors A and B stand; nowhere if there is no A. What is no factor, a classifier's head, goes with B.
    pub fn layout(&self) -> Layout {
        let factor = |factor| {
            let of = self.slots.iter().filter(|slot| slot.belongs_to(factor));
            of.map(|slot| slot.range.clone()).collect()
        };
        let a: Vec<Range<usize>> = factor(Factor::A);
        let b = if a.is_empty() {
            Vec::new()
        } else {
            factor(Factor::B)
        };
        Layout {
            shape: self.shape_digest(),
            len: self.len,
            a,
            b,
        }
    }

    /// The digest of a vector in this order.
    pub fn digest(&self, values: &[f32]) -> Digest {
        adapter_digest(&self.shape_digest(), values)
    }

    /// The tensors of a vector by name; those whose slot `moves` are variables.
    ///
    /// # Panics
    /// If the vector has another length.
    pub fn tensors(
        &self,
        values: &[f32],
        moves: impl Fn(&Slot) -> bool,
    ) -> Result<BTreeMap<String, Tensor>> {
        self.tensors_on(&Device::Cpu, values, moves)
    }

    /// The same on a device.
    ///
    /// # Panics
    /// If the vector has another length.
    pub fn tensors_on(
        &self,
        device: &Device,
        values: &[f32],
        moves: impl Fn(&Slot) -> bool,
    ) -> Result<BTreeMap<String, Tensor>> {
        assert_eq!(values.len(), self.len, "a vector of this order");
        let tensor = |slot: &Slot| {
            let values = &values[slot.range.clone()];
            let tensor = if moves(slot) {
                slot.variable(values, device)?
            } else {
                Tensor::from_slice(values, &slot.shape[..], device)?
            };
            Ok((slot.name.clone(), tensor))
        };
        self.slots.iter().map(tensor).collect()
    }

    /// What does not move with the factor, as tensors by name.
    ///
    /// # Panics
    /// If the vector has another length.
    pub fn frozen(
        &self,
        device: &Device,
        values: &[f32],
        factor: Factor,
    ) -> Result<BTreeMap<String, Tensor>> {
        assert_eq!(values.len(), self.len, "a vector of this order");
        let frozen = self.slots.iter().filter(|slot| !slot.belongs_to(factor));
        let tensor = |slot: &Slot| {
            let tensor = Tensor::from_slice(&values[slot.range.clone()], &slot.shape[..], device)?;
            Ok((slot.name.clone(), tensor))
        };
        frozen.map(tensor).collect()
    }

    /// What moves with the factor, as variables by name, of the coordinates that [`Layout::gather`] gives.
    ///
    /// # Panics
    /// If these are fewer than the factor has.
    pub fn moving(
        &self,
        device: &Device,
        values: &[f32],
        factor: Factor,
    ) -> Result<BTreeMap<String, Tensor>> {
        let mut rest = values;
        let moving = self.slots.iter().filter(|slot| slot.belongs_to(factor));
        let tensor = |slot: &Slot| {
            let (values, behind) = rest.split_at(slot.range.len());
            rest = behind;
            Ok((slot.name.clone(), slot.variable(values, device)?))
        };
        moving.map(tensor).collect()
    }

    /// Adds the gradients of the variables to the vector of their coordinates, in order; gives the name of a variable
    /// that has none.
    ///
    /// # Panics
    /// If the vector has fewer coordinates than the variables.
    pub fn add_gradients(
        &self,
        tensors: &BTreeMap<String, Tensor>,
        gradients: &GradStore,
        sum: &mut [f32],
    ) -> Result<Option<String>> {
        let mut rest = sum;
        for slot in &self.slots {
            let tensor = &tensors[&slot.name];
            if !tensor.is_variable() {
                continue;
            }
            let (sum, behind) = rest.split_at_mut(slot.range.len());
            rest = behind;
            let Some(gradient) = gradients.get(tensor) else {
                return Ok(Some(slot.name.clone()));
            };
            let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
            for (sum, g) in sum.iter_mut().zip(gradient) {
                *sum += g;
            }
        }
        Ok(None)
    }
}

impl Slot {
    fn variable(&self, values: &[f32], device: &Device) -> Result<Tensor> {
        Ok(Var::from_slice(values, &self.shape[..], device)?.into_inner())
    }

    /// Whether the factor moves this tensor.
    pub fn belongs_to(&self, factor: Factor) -> bool {
        match factor {
            Factor::A => self.name.ends_with(".lora_A.weight"),
            Factor::B => !self.name.ends_with(".lora_A.weight"),
            Factor::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_names_and_the_factors_are_found() {
        let tensors = [
            ("b.lora_A.weight".to_owned(), vec![2, 3]),
            ("a.lora_B.weight".to_owned(), vec![4, 2]),
            ("a.lora_A.weight".to_owned(), vec![2, 5]),
        ];
        let flat = Flat::new(tensors.clone());
        let backwards = Flat::new(tensors.into_iter().rev());
        assert_eq!(flat, backwards);
        let layout = flat.layout();
        let b = std::iter::once(10..18).collect();
        assert_eq!(
            (layout.len, layout.a, layout.b),
            (24, vec![0..10, 18..24], b)
        );
        let other = Flat::new([("a.lora_A.weight".to_owned(), vec![5, 2])]);
        assert_ne!(other.shape_digest(), flat.shape_digest());
        let whole = Flat::new([("prompt_embeddings".to_owned(), vec![5, 2])]).layout();
        assert!(!whole.has_factors() && whole.is_sound());
        assert_eq!(whole.count(Factor::All), 10);
        let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let tensors = flat
            .tensors(&values, |slot| slot.belongs_to(Factor::B))
            .unwrap();
        assert!(tensors["a.lora_B.weight"].is_variable());
        assert!(!tensors["a.lora_A.weight"].is_variable());
        assert_eq!(
            tensors["b.lora_A.weight"].to_vec2::<f32>().unwrap()[1],
            [21.0, 22.0, 23.0]
        );
    }
}
