//! Bottleneck adapters (Houlsby et al., arXiv 1902.00751): two small maps behind each sublayer.

use std::collections::BTreeMap;

use candle_core::Tensor;
use conclave_protocol::charter::NonLinearity;
use serde_json::{Value, json};

use super::folder::number;
use super::{AdapterError, PREFIX, Tensors, bound_of, uniform};
use crate::learn::flatten::Slot;
use crate::learn::model::adapted::{self, BottleneckTensors, DOWN, DOWN_BIAS, UP, UP_BIAS};
use crate::learn::model::config::Config;

/// The terms of bottleneck adapters: one stands behind attention and one behind the MLP of every layer, before their
/// outputs join the residual stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bottleneck {
    /// Elements in between.
    pub size: u32,
    /// What stands between the two maps.
    pub non_linearity: NonLinearity,
}

impl Bottleneck {
    /// What `peft_type` says. PEFT refuses it: it has no such adapter.
    pub(super) const TYPE: &'static str = "CONCLAVE_BOTTLENECK";

    /// Its part of `adapter_config.json`.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "peft_type": Self::TYPE,
            "bottleneck_size": self.size,
            "non_linearity": self.non_linearity.name(),
        })
    }

    /// The same, read.
    pub(super) fn from_json(json: &Value) -> Result<Self, String> {
        let form = json["non_linearity"].as_str().unwrap_or_default();
        let form = form.parse::<NonLinearity>();
        Ok(Self {
            size: number(json, "bottleneck_size")?,
            non_linearity: form.map_err(|e| format!("non_linearity: {e}"))?,
        })
    }

    /// Its tensors. PEFT has no such adapter: the names are ours, in PEFT's way.
    pub(super) fn tensors(&self, config: &Config) -> Result<Vec<Tensors>, AdapterError> {
        let (size, hidden) = (self.size as usize, config.hidden);
        if size == 0 || size > hidden {
            let (size, most) = (self.size, hidden);
            return Err(AdapterError::Size { size, most });
        }
        let mut tensors = Vec::new();
        for place in config.joins() {
            tensors.push((part_name(&place, DOWN), vec![size, hidden]));
            tensors.push((part_name(&place, DOWN_BIAS), vec![size]));
            tensors.push((part_name(&place, UP), vec![hidden, size]));
            tensors.push((part_name(&place, UP_BIAS), vec![hidden]));
        }
        Ok(tensors)
    }

    /// The way down starts uniform in ±1/sqrt(hidden), the way up and the biases at 0: the first step begins with the
    /// base itself.
    pub(super) fn start(slot: &Slot, key: [u8; 32], values: &mut [f32]) {
        if slot.name.ends_with(DOWN) {
            uniform(key, bound_of(slot.shape[1]), values);
        }
    }

    /// The bottlenecks by the sublayer that they stand behind.
    pub(super) fn bind(
        &self,
        places: &[String],
        tensors: &BTreeMap<String, Tensor>,
    ) -> BottleneckTensors {
        let bottleneck = |place: &String| {
            let part = |part: &str| tensors[&part_name(place, part)].clone();
            (place.clone(), adapted::Bottleneck::of(part))
        };
        BottleneckTensors {
            non_linearity: self.non_linearity,
            places: places.iter().map(bottleneck).collect(),
        }
    }
}

fn part_name(place: &str, part: &str) -> String {
    format!("{PREFIX}{place}.adapter.{part}")
}
