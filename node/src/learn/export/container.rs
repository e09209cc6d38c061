//! GGUF files, version 3: keys and tensors as llama.cpp reads them, written one tensor at a time.

use std::borrow::Cow;
use std::io::{self, Write};

use candle_core::quantized::gguf_file::Value;
use half::{bf16, f16};

use crate::learn::model::gguf::stored::{across, neighbours};
use crate::learn::weights::Weight;

/// The number format of matrices; vectors are always f32, as llama.cpp wants them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Numbers {
    /// 32 bits.
    #[value(name = "f32")]
    F32,
    /// 16 bits, 11 of them for precision.
    #[value(name = "f16")]
    F16,
    /// The upper half of an f32.
    #[value(name = "bf16")]
    Bf16,
    /// Blocks of 32 with one scale: 8.5 bits. Matrices whose rows are no multiple of 32 are f16.
    #[value(name = "q8_0")]
    Q8,
}

/// A tensor on its way out.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// llama.cpp's name.
    pub name: String,
    /// The values, in Hugging Face's order.
    pub weight: Weight,
    /// In which order llama.cpp wants them.
    pub order: Order,
    /// How they are written.
    pub numbers: Numbers,
}

/// The order of a tensor's values, beside Hugging Face's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The same.
    Same,
    /// The rows of so many heads, so that neighbours turn together.
    Neighbours(usize),
    /// Columns in place of rows.
    Across,
}

impl Numbers {
    /// What becomes of a tensor of this shape.
    #[must_use]
    pub fn of(self, shape: &[usize]) -> Self {
        match (self, shape) {
            (_, [_] | []) => Self::F32,
            (Self::Q8, shape) if shape.last().is_none_or(|row| row % BLOCK != 0) => Self::F16,
            (numbers, _) => numbers,
        }
    }

    /// `general.file_type`: llama.cpp's number for files that are mostly of it.
    pub fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8 => 7,
            Self::Bf16 => 32,
        }
    }

    /// ggml's number for a tensor of it.
    fn ggml(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8 => 8,
            Self::Bf16 => 30,
        }
    }

    /// Bytes that so many values take.
    fn bytes(self, values: usize) -> usize {
        match self {
            Self::F32 => values * 4,
            Self::F16 | Self::Bf16 => values * 2,
            Self::Q8 => values / BLOCK * (2 + BLOCK),
        }
    }

    fn write(self, values: &[f32], to: &mut impl Write) -> io::Result<()> {
        match self {
            Self::F32 => each(values, to, f32::to_le_bytes),
            Self::F16 => each(values, to, |x| f16::from_f32(x).to_le_bytes()),
            Self::Bf16 => each(values, to, |x| bf16::from_f32(x).to_le_bytes()),
            Self::Q8 => values
                .as_chunks()
                .0
                .iter()
                .try_for_each(|block| eighths(block, to)),
        }
    }
}

fn each<const N: usize>(
    values: &[f32],
    to: &mut impl Write,
    bytes: impl Fn(f32) -> [u8; N],
) -> io::Result<()> {
    values.iter().try_for_each(|x| to.write_all(&bytes(*x)))
}

/// A block of Q8_0, as ggml rounds it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the scale keeps it within ±127"
)]
fn eighths(block: &[f32; BLOCK], to: &mut impl Write) -> io::Result<()> {
    let largest = block.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    to.write_all(&f16::from_f32(scale).to_le_bytes())?;
    to.write_all(&block.map(|x| ((x * inverse).round() as i8).cast_unsigned()))
}

/// Writes a whole file.
pub fn write(to: &mut impl Write, keys: &[(String, Value)], tensors: &[Tensor]) -> io::Result<()> {
    let mut head = Vec::new();
    head.extend(b"GGUF");
    head.extend(3_u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        text(&mut head, key);
        head.extend(kind(value).to_le_bytes());
        put(&mut head, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut head, &tensor.name);
        let shape = tensor.shape();
        head.extend(u32::try_from(shape.len()).unwrap_or(u32::MAX).to_le_bytes());
        for &size in shape.iter().rev() {
            head.extend((size as u64).to_le_bytes());
        }
        head.extend(tensor.numbers.ggml().to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
    to.write_all(&head)?;
    for tensor in tensors {
        tensor.numbers.write(&tensor.values(), to)?;
        let bytes = tensor.bytes();
        to.write_all(&vec![0; bytes.next_multiple_of(ALIGNMENT) - bytes])?;
    }
    to.flush()
}

impl Tensor {
    fn bytes(&self) -> usize {
        self.numbers.bytes(self.weight.values().len())
    }

    /// Its shape in the file, rows first.
    fn shape(&self) -> Vec<usize> {
        let shape = self.weight.shape().iter().copied();
        match self.order {
            Order::Same | Order::Neighbours(_) => shape.collect(),
            Order::Across => shape.rev().collect(),
        }
    }

    fn values(&self) -> Cow<'_, [f32]> {
        let values = self.weight.values();
        match (self.order, self.weight.shape()) {
            (Order::Neighbours(heads), [rows, ..]) => neighbours(values, *rows, heads).into(),
            (Order::Across, [rows, _]) => across(values, *rows).into(),
            _ => values.into(),
        }
    }

    /// In this number format, if its shape allows.
    #[must_use]
    pub fn in_format(self, numbers: Numbers) -> Self {
        let numbers = numbers.of(&self.shape());
        Self { numbers, ..self }
    }

    /// Whether every value that it has fits its number format.
    pub fn fits(&self) -> bool {
        let most = f32::from(f16::MAX);
        self.numbers != Numbers::F16 || self.weight.values().iter().all(|x| x.abs() <= most)
    }
}

fn text(head: &mut Vec<u8>, text: &str) {
    head.extend((text.len() as u64).to_le_bytes());
    head.extend(text.as_bytes());
}

fn put(head: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(x) => head.extend(x.to_le_bytes()),
        Value::I8(x) => head.extend(x.to_le_bytes()),
        Value::U16(x) => head.extend(x.to_le_bytes()),
        Value::I16(x) => head.extend(x.to_le_bytes()),
        Value::U32(x) => head.extend(x.to_le_bytes()),
        Value::I32(x) => head.extend(x.to_le_bytes()),
        Value::F32(x) => head.extend(x.to_le_bytes()),
        Value::Bool(x) => head.push(u8::from(*x)),
        Value::String(x) => text(head, x),
        Value::U64(x) => head.extend(x.to_le_bytes()),
        Value::I64(x) => head.extend(x.to_le_bytes()),
        Value::F64(x) => head.extend(x.to_le_bytes()),
        Value::Array(values) => {
            head.extend(values.first().map_or(4, kind).to_le_bytes());
            head.extend((values.len() as u64).to_le_bytes());
            for value in values {
                put(head, value);
            }
        }
    }
}

/// GGUF's number for the type of a value.
fn kind(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

/// Where tensors may begin, bytes.
const ALIGNMENT: usize = 32;

/// Values of a block of Q8_0.
const BLOCK: usize = 32;

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use candle_core::Device;
    use candle_core::quantized::gguf_file::Content;
    use candle_core::quantized::{GgmlDType, QTensor};

    use super::*;

    fn tensor(name: &str, shape: Vec<usize>, numbers: Numbers) -> Tensor {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|i| (i * 37 % 101) as f32 / 10.0 - 5.0);
        Tensor {
            name: name.to_owned(),
            weight: Weight::owned(values.collect(), shape),
            order: Order::Same,
            numbers,
        }
    }

    #[test]
    fn candle_reads_what_was_written() {
        let keys = [
            ("a", Value::String("word".into())),
            ("b", Value::Array(vec![Value::F32(1.5), Value::F32(-2.0)])),
            (
                "c",
                Value::Array(vec![Value::String("x".into()), Value::String("yz".into())]),
            ),
            ("d", Value::Bool(true)),
            ("e", Value::Array(Vec::new())),
            ("f", Value::I32(-3)),
        ];
        let keys: Vec<(String, Value)> = keys.map(|(k, v)| (k.to_owned(), v)).to_vec();
        let all = [Numbers::F32, Numbers::F16, Numbers::Bf16, Numbers::Q8];
        let tensors = all.iter().enumerate();
        let tensors = tensors.map(|(i, numbers)| tensor(&format!("t{i}"), vec![3, 32], *numbers));
        let mut tensors: Vec<Tensor> = tensors.collect();
        tensors.insert(1, tensor("odd", vec![5], Numbers::F32));
        let mut bytes = Vec::new();
        write(&mut bytes, &keys, &tensors).unwrap();
        let mut file = Cursor::new(bytes);
        let content = Content::read(&mut file).unwrap();
        for (key, value) in &keys {
            assert_eq!(format!("{:?}", content.metadata[key]), format!("{value:?}"));
        }
        for tensor in &tensors {
            let read = content
                .tensor(&mut file, &tensor.name, &Device::Cpu)
                .unwrap();
            assert_eq!(read.shape().dims(), tensor.weight.shape());
            let exact = candle_core::Tensor::from_slice(
                tensor.weight.values(),
                tensor.weight.shape(),
                &Device::Cpu,
            );
            let dtype = match tensor.numbers {
                Numbers::F32 => GgmlDType::F32,
                Numbers::F16 => GgmlDType::F16,
                Numbers::Bf16 => GgmlDType::BF16,
                Numbers::Q8 => GgmlDType::Q8_0,
            };
            let want = QTensor::quantize(&exact.unwrap(), dtype).unwrap();
            assert_eq!(read.dtype(), dtype);
            assert_eq!(
                read.data().unwrap(),
                want.data().unwrap(),
                "{}",
                tensor.name
            );
        }
    }

    #[test]
    fn vectors_stay_whole_and_odd_rows_are_halves() {
        assert_eq!(Numbers::Q8.of(&[64]), Numbers::F32);
        assert_eq!(Numbers::Q8.of(&[2, 64]), Numbers::Q8);
        assert_eq!(Numbers::Q8.of(&[64, 2]), Numbers::F16);
        assert_eq!(Numbers::Bf16.of(&[64, 2]), Numbers::Bf16);
        let mut large = tensor("t", vec![1, 2], Numbers::F16);
        assert!(large.fits());
        large.weight = Weight::owned(vec![1.0, -1e5], vec![1, 2]);
        assert!(!large.fits());
        large.numbers = Numbers::Bf16;
        assert!(large.fits());
    }
}
