//! The keys of a GGUF file: read by the architecture's name, refused where they are not what they must be.

use candle_core::quantized::gguf_file::Value;

use super::{Gguf, GgufError};

impl Gguf {
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        let key = format!("{}.{key}", self.architecture);
        self.content.metadata.get(&key)
    }

    pub(super) fn whole(&self, key: &str) -> Result<u64, GgufError> {
        let value = self.value(key);
        let value = value.ok_or_else(|| self.refuse(key, "is missing".into()))?;
        self.number(key, value)
    }

    pub(super) fn optional(&self, key: &str, otherwise: &str) -> Result<u64, GgufError> {
        match self.value(key) {
            Some(value) => self.number(key, value),
            None => self.whole(otherwise),
        }
    }

    pub(super) fn optional_or(&self, key: &str, otherwise: u64) -> Result<u64, GgufError> {
        let number = |value| self.number(key, value);
        self.value(key).map_or(Ok(otherwise), number)
    }

    pub(super) fn number(&self, key: &str, value: &Value) -> Result<u64, GgufError> {
        let number = match value {
            Value::U8(n) => Some(u64::from(*n)),
            Value::U16(n) => Some(u64::from(*n)),
            Value::U32(n) => Some(u64::from(*n)),
            Value::U64(n) => Some(*n),
            Value::I32(n) => u64::try_from(*n).ok(),
            Value::I64(n) => u64::try_from(*n).ok(),
            _ => None,
        };
        number.ok_or_else(|| self.refuse(key, format!("is {value:?}; it must be a whole number")))
    }

    pub(super) fn real(&self, key: &str) -> Result<Option<f64>, GgufError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let number = match value {
            Value::F32(x) => Some(f64::from(*x)),
            Value::F64(x) => Some(*x),
            _ => None,
        };
        match number.filter(|x| x.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.refuse(key, format!("is {value:?}; it must be a number"))),
        }
    }

    pub(super) fn refuse(&self, key: &str, what: String) -> GgufError {
        GgufError::Key {
            path: self.path.clone(),
            key: format!("{}.{key}", self.architecture),
            what,
        }
    }
}
