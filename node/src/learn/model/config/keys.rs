//! The keys of a `config.json`: read with a default, refused by name where they cannot be used.

use std::path::Path;

use serde_json::{Map, Value};

use super::ConfigError;

/// A `config.json` to be read key by key.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    /// Its keys.
    pub json: &'a Map<String, Value>,
    /// The file, for the sentences.
    pub path: &'a Path,
}

impl Keys<'_> {
    /// A size that must be there.
    pub fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.optional_size(key)?
            .ok_or_else(|| self.malformed(format!("the key {key} is missing")))
    }

    /// A size, or what it is where the key is absent or null.
    pub fn size_or(&self, key: &str, otherwise: usize) -> Result<usize, ConfigError> {
        Ok(self.optional_size(key)?.unwrap_or(otherwise))
    }

    /// A size, if the key is there and not null.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        match size {
            Some(size) if (1..=LARGEST).contains(&size) => Ok(Some(size)),
            _ => Err(self.malformed(format!(
                "{key} is {value}; it must be a whole number from 1 to {LARGEST}"
            ))),
        }
    }

    /// The number of layers, or what it is where the key is absent or null.
    pub fn layers(&self, key: &str, otherwise: Option<usize>) -> Result<usize, ConfigError> {
        let layers = match otherwise {
            Some(otherwise) => self.size_or(key, otherwise)?,
            None => self.size(key)?,
        };
        if layers > LAYERS {
            return Err(self.malformed(format!("{key} is {layers}; the most is {LAYERS}")));
        }
        Ok(layers)
    }

    /// A count that may be zero, or what it is where the key is absent or null.
    pub fn whole_or(&self, key: &str, otherwise: usize) -> Result<usize, ConfigError> {
        match self.value(key) {
            Some(Value::Number(zero)) if zero.as_u64() == Some(0) => Ok(0),
            _ => self.size_or(key, otherwise),
        }
    }

    /// A number, if the key is there and not null.
    pub fn real(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let number = value.as_f64().filter(|number| number.is_finite());
        let refused = || self.malformed(format!("{key} is {value}; it must be a number"));
        number.map(Some).ok_or_else(refused)
    }

    /// A small positive number for the denominator of a norm.
    #[expect(clippy::cast_possible_truncation, reason = "norms compute in f32")]
    pub fn epsilon(&self, key: &str, otherwise: f64) -> Result<f32, ConfigError> {
        let eps = self.real(key)?.unwrap_or(otherwise);
        if eps > 0.0 && eps < 1.0 {
            Ok(eps as f32)
        } else {
            Err(self.malformed(format!("{key} is {eps}; it must lie between 0 and 1")))
        }
    }

    /// True or false, or what it is where the key is absent or null.
    pub fn flag_or(&self, key: &str, otherwise: bool) -> Result<bool, ConfigError> {
        match self.value(key) {
            None => Ok(otherwise),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => {
                Err(self.malformed(format!("{key} is {value}; it must be true or false")))
            }
        }
    }

    /// A word, if the key is there and not null.
    pub fn word(&self, key: &str) -> Option<&str> {
        self.value(key).and_then(Value::as_str)
    }

    /// Token ids: one, a list, or none.
    pub fn tokens(&self, key: &str) -> Vec<u32> {
        let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.value(key) {
            Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
            Some(value) => one(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// A value, unless it is null.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// Refuses a key that changes the mathematics, unless it is absent, null or one of the allowed values.
    pub fn only(&self, key: &str, allowed: &[Value]) -> Result<(), ConfigError> {
        match self.value(key) {
            Some(value) if !allowed.iter().any(|allowed| same(allowed, value)) => {
                Err(self.unsupported(key, value))
            }
            _ => Ok(()),
        }
    }

    /// That this file is not what we expect.
    pub fn malformed(&self, reason: String) -> ConfigError {
        ConfigError::Malformed {
            path: self.path.to_owned(),
            reason,
        }
    }

    /// That a key asks for mathematics that is not built.
    pub fn unsupported(&self, key: &str, value: &Value) -> ConfigError {
        ConfigError::Unsupported {
            path: self.path.to_owned(),
            key: key.to_owned(),
            value: value.to_string(),
        }
    }
}

/// Equal, 1 and 1.0 included.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b).is_eq(),
        _ => a == b,
    }
}

/// The largest size: of a few of them, and of [`LAYERS`], the product can be counted.
pub(in crate::learn::model) const LARGEST: usize = 1 << 22;
/// The most layers: each has a list of tensors, which a number alone must not make long.
const LAYERS: usize = 1 << 12;
