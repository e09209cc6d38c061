//! What a forward pass takes beside the frozen weights, and where each kind of adapter attaches to it.
//!
//! LoRA stands beside linear maps, a bottleneck between a sublayer and the residual stream, a soft prompt in front of
//! the embedded tokens: the three operations of `Ops` that ask here whether somebody is there.

use std::borrow::Cow;
use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};
use conclave_protocol::charter::NonLinearity;

use super::labels::LabelHead;
use crate::learn::batch::Batch;
use crate::learn::dropout::Dropout;

/// What a forward pass uses beside, or in place of, the frozen weights.
#[derive(Debug)]
pub enum Moving {
    /// The base alone.
    Nothing,
    /// An adapter on the base.
    Adapter(AdapterTensors),
    /// Every weight of the model, by name.
    All(BTreeMap<String, Tensor>),
}

/// An adapter as tensors.
#[derive(Debug, Clone)]
pub struct AdapterTensors {
    /// The head of a classifier, which moves whole.
    pub head: Option<LabelHead>,
    /// What belongs to the method.
    pub method: MethodTensors,
}

/// The tensors of a method.
#[derive(Debug, Clone)]
pub enum MethodTensors {
    /// Beside linear maps.
    Lora(LoraTensors),
    /// Behind sublayers.
    Bottleneck(BottleneckTensors),
    /// In front of each text: `(virtual tokens, hidden)`.
    Prompt(Tensor),
}

/// The factors of LoRA.
#[derive(Debug, Clone)]
pub struct LoraTensors {
    /// What this pass drops before the factors; nothing outside of training.
    pub dropout: Option<Dropout>,
    /// Of each linear map that has them, by module.
    pub factors: BTreeMap<String, Factors>,
}

/// The factors beside a linear map.
#[derive(Debug, Clone)]
pub struct Factors {
    /// `(r, in)`.
    pub a: Tensor,
    /// `(out, r)`.
    pub b: Tensor,
    /// What `B · A` counts: alpha / r, of rsLoRA alpha / sqrt(r).
    pub scale: f32,
}

/// The bottlenecks of Houlsby et al.
#[derive(Debug, Clone)]
pub struct BottleneckTensors {
    /// Between down and up.
    pub non_linearity: NonLinearity,
    /// By the sublayer that they stand behind.
    pub places: BTreeMap<String, Bottleneck>,
}

/// `y + up · f(down · y + down_bias) + up_bias`
#[derive(Debug, Clone)]
pub struct Bottleneck {
    /// `(size, hidden)`.
    pub down: Tensor,
    /// `size` numbers.
    pub down_bias: Tensor,
    /// `(hidden, size)`.
    pub up: Tensor,
    /// `hidden` numbers.
    pub up_bias: Tensor,
}

impl Moving {
    /// The adapter, if one moves.
    pub(super) fn adapter(&self) -> Option<&AdapterTensors> {
        match self {
            Self::Adapter(adapter) => Some(adapter),
            Self::Nothing | Self::All(_) => None,
        }
    }

    /// Rows that stand in front of each example.
    pub fn virtual_tokens(&self) -> usize {
        self.adapter().map_or(0, AdapterTensors::virtual_tokens)
    }

    /// A batch with room for a soft prompt in front of each example, if there is one.
    pub(super) fn in_front<'b>(&self, batch: &'b Batch) -> Cow<'b, Batch> {
        match self.virtual_tokens() {
            0 => Cow::Borrowed(batch),
            virtual_tokens => Cow::Owned(batch.behind(virtual_tokens)),
        }
    }
}

impl AdapterTensors {
    /// The same on a device.
    pub fn on(&self, device: &Device) -> Result<Self> {
        let head = self.head.as_ref().map(|head| {
            Ok::<_, candle_core::Error>(LabelHead {
                weight: head.weight.to_device(device)?,
                bias: head.bias.to_device(device)?,
            })
        });
        let method = match &self.method {
            MethodTensors::Lora(lora) => {
                let factors = lora.factors.iter().map(|(module, factors)| {
                    let there = Factors {
                        a: factors.a.to_device(device)?,
                        b: factors.b.to_device(device)?,
                        scale: factors.scale,
                    };
                    Ok((module.clone(), there))
                });
                MethodTensors::Lora(LoraTensors {
                    factors: factors.collect::<Result<_>>()?,
                    ..lora.clone()
                })
            }
            MethodTensors::Bottleneck(all) => {
                let places = all.places.iter().map(|(place, bottleneck)| {
                    let there = Bottleneck {
                        down: bottleneck.down.to_device(device)?,
                        down_bias: bottleneck.down_bias.to_device(device)?,
                        up: bottleneck.up.to_device(device)?,
                        up_bias: bottleneck.up_bias.to_device(device)?,
                    };
                    Ok((place.clone(), there))
                });
                MethodTensors::Bottleneck(BottleneckTensors {
                    non_linearity: all.non_linearity,
                    places: places.collect::<Result<_>>()?,
                })
            }
            MethodTensors::Prompt(prompt) => MethodTensors::Prompt(prompt.to_device(device)?),
        };
        Ok(Self {
            head: head.transpose()?,
            method,
        })
    }

    /// The factors beside a linear map, and LoRA's dropout.
    pub(super) fn beside(&self, module: &str) -> Option<(&Factors, Option<&Dropout>)> {
        match &self.method {
            MethodTensors::Lora(lora) => Some((lora.factors.get(module)?, lora.dropout.as_ref())),
            MethodTensors::Bottleneck(_) | MethodTensors::Prompt(_) => None,
        }
    }

    /// The bottleneck behind a sublayer.
    pub(super) fn behind(&self, place: &str) -> Option<(NonLinearity, &Bottleneck)> {
        match &self.method {
            MethodTensors::Bottleneck(all) => Some((all.non_linearity, all.places.get(place)?)),
            MethodTensors::Lora(_) | MethodTensors::Prompt(_) => None,
        }
    }

    /// The soft prompt.
    pub(super) fn prompt(&self) -> Option<&Tensor> {
        match &self.method {
            MethodTensors::Prompt(prompt) => Some(prompt),
            MethodTensors::Lora(_) | MethodTensors::Bottleneck(_) => None,
        }
    }

    /// How many positions of the context its soft prompt takes.
    pub fn virtual_tokens(&self) -> usize {
        self.prompt().map_or(0, |prompt| prompt.dims()[0])
    }
}

impl Bottleneck {
    /// Its four tensors, each by its name behind the place's.
    pub(in crate::learn) fn of(tensor: impl Fn(&str) -> Tensor) -> Self {
        Self {
            down: tensor(DOWN),
            down_bias: tensor(DOWN_BIAS),
            up: tensor(UP),
            up_bias: tensor(UP_BIAS),
        }
    }
}

/// The name of the matrix into the bottleneck, behind that of the place.
pub(in crate::learn) const DOWN: &str = "down.weight";
/// Of its bias.
pub(in crate::learn) const DOWN_BIAS: &str = "down.bias";
/// Of the matrix out of the bottleneck.
pub(in crate::learn) const UP: &str = "up.weight";
/// Of its bias.
pub(in crate::learn) const UP_BIAS: &str = "up.bias";
