//! What a family says about itself: the tensors it is made of, and the operations it is computed by.
//!
//! A family is written once, in terms of a few operations: the trainer's graph, the decoder and the tests' plain
//! twin each carry them out in their own way.

use candle_core::Result;

use crate::learn::batch::Batch;
use crate::learn::kernel::attention::Heads;
use crate::learn::kernel::gelu::Gelu;
use crate::learn::weights::affine::Layout;

/// A tensor of a model, or a linear map with its bias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Something that an adapter can attach to.
    Map(LinearMap),
    /// Anything else: an embedding, a norm, a head.
    Tensor {
        /// Its full name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
}

/// A linear map, by its name in Hugging Face's model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearMap {
    /// The module's full name, without `.weight`.
    pub module: String,
    /// Elements of an output row.
    pub out: usize,
    /// Elements of an input row.
    pub inside: usize,
    /// Whether a bias belongs to it.
    pub bias: bool,
    /// How its matrix is stored.
    pub layout: Layout,
}

/// By what a row of a table is chosen for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Index {
    /// The token.
    Token,
    /// Its position in its example.
    Position,
    /// The first row, for all.
    First,
}

impl Index {
    /// The row of each token of a batch.
    pub(super) fn of(self, batch: &Batch) -> Vec<u32> {
        match self {
            Self::Token => batch.ids.clone(),
            Self::Position => batch.positions(),
            Self::First => vec![0; batch.rows()],
        }
    }
}

/// The operations that families are made of. Rows are `(tokens, width)`.
pub(super) trait Ops {
    /// Rows of numbers.
    type Rows;

    /// Rows of a table, one for each token. Where tokens are embedded, a soft prompt stands in front of each text.
    fn embed(&mut self, table: &str, index: Index) -> Result<Self::Rows>;

    /// What a linear map makes of its input, its adapter included.
    fn linear(&mut self, x: &Self::Rows, module: &str) -> Result<Self::Rows>;

    /// RMSNorm over as many neighbouring elements as the weight `module.weight` has.
    fn rms_norm(&mut self, x: &Self::Rows, module: &str, eps: f32) -> Result<Self::Rows>;

    /// LayerNorm with `module.weight` and `module.bias`.
    fn layer_norm(&mut self, x: &Self::Rows, module: &str, eps: f32) -> Result<Self::Rows>;

    /// The three equal parts of each row.
    fn thirds(&mut self, x: &Self::Rows) -> Result<[Self::Rows; 3]>;

    /// Attention of a layer on projected queries, keys and values.
    fn attend(&mut self, layer: usize, heads: &Heads, qkv: [Self::Rows; 3]) -> Result<Self::Rows>;

    /// `silu(gate) · up`.
    fn swiglu(&mut self, gate: &Self::Rows, up: &Self::Rows) -> Result<Self::Rows>;

    /// GELU, element by element.
    fn gelu(&mut self, x: &Self::Rows, form: Gelu) -> Result<Self::Rows>;

    /// The first row of each example.
    fn firsts(&mut self, x: &Self::Rows) -> Result<Self::Rows>;

    /// The hyperbolic tangent, element by element.
    fn tanh(&mut self, x: &Self::Rows) -> Result<Self::Rows>;

    /// The sum, element by element.
    fn add(&mut self, x: Self::Rows, y: Self::Rows) -> Result<Self::Rows>;

    /// The output `y` of the sublayer `place` joins the residual stream `x`, through its bottleneck if it has one.
    fn join(&mut self, x: Self::Rows, y: Self::Rows, place: &str) -> Result<Self::Rows> {
        let y = self.bottleneck(y, place)?;
        self.add(x, y)
    }

    /// What the bottleneck behind a sublayer makes of its output; the output itself where there is none.
    fn bottleneck(&mut self, y: Self::Rows, place: &str) -> Result<Self::Rows>;
}

impl LinearMap {
    /// The last component of its name, by which target lists call it.
    pub fn name(&self) -> &str {
        let dot = self.module.rfind('.').map_or(0, |dot| dot + 1);
        &self.module[dot..]
    }

    /// Whether a target of this name means the map: its whole name, or the end of it from a dot on.
    pub fn is_called(&self, target: &str) -> bool {
        let rest = self.module.strip_suffix(target);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// The shape of its matrix as stored.
    pub fn shape(&self) -> [usize; 2] {
        match self.layout {
            Layout::OutIn => [self.out, self.inside],
            Layout::InOut => [self.inside, self.out],
        }
    }
}

impl Part {
    /// A linear map.
    pub fn map(module: String, [out, inside]: [usize; 2], bias: bool, layout: Layout) -> Self {
        Self::Map(LinearMap {
            module,
            out,
            inside,
            bias,
            layout,
        })
    }

    /// A tensor that is no map's.
    pub fn tensor(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        let (name, shape) = (name.into(), shape.into());
        Self::Tensor { name, shape }
    }

    /// The weight and the bias of a LayerNorm.
    pub fn layer_norm(module: &str, width: usize) -> [Self; 2] {
        ["weight", "bias"].map(|of| Self::tensor(format!("{module}.{of}"), [width]))
    }

    /// How many numbers it holds.
    pub fn parameters(&self) -> usize {
        match self {
            Self::Map(map) => map.out * (map.inside + usize::from(map.bias)),
            Self::Tensor { shape, .. } => shape.iter().product(),
        }
    }
}
