//! PEFT's `rank_pattern` and `alpha_pattern`: other numbers for the maps whose names they match.

use regex::Regex;
use serde_json::{Value, json};

use super::AdapterError;
use crate::learn::model::parts::LinearMap;

/// Keys with the number that each stands for; of several that match a map the first counts, as in PEFT.
///
/// A key is a regular expression for the end of a map's name, from a dot on: `q_proj`, `mlp.down_proj`,
/// `layers\.(0|1)\..*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pattern(pub Vec<(String, u32)>);

/// The keys of a pattern, ready to be matched.
pub(super) struct Matcher(Vec<(Regex, u32)>);

impl Pattern {
    /// From a JSON object of numbers; `null` is empty.
    pub(super) fn from_json(json: &Value, key: &str) -> Result<Self, String> {
        let entries = match json {
            Value::Null => return Ok(Self::default()),
            Value::Object(entries) => entries,
            other => return Err(format!("{key} is {other}; it must be names with numbers")),
        };
        let entry = |(name, number): (&String, &Value)| {
            let whole = number.as_u64().and_then(|n| u32::try_from(n).ok());
            let whole = whole.ok_or_else(|| {
                format!("{key} has {number} for {name}; it must be a whole number")
            })?;
            Ok((name.clone(), whole))
        };
        let entries: Result<_, String> = entries.iter().map(entry).collect();
        entries.map(Self)
    }

    pub(super) fn to_json(&self) -> Value {
        let entries = self.0.iter().map(|(key, n)| (key.clone(), json!(n)));
        Value::Object(entries.collect())
    }

    /// Leaves out what matches no map, which PEFT ignores.
    pub(super) fn keep(&mut self, maps: &[LinearMap]) -> Result<(), AdapterError> {
        let matcher = self.matcher()?;
        let mut met = matcher.0.iter().map(|(key, _)| met(key, maps));
        self.0.retain(|_| met.next().unwrap_or(false));
        Ok(())
    }

    /// Refuses keys that match no map.
    pub(super) fn check(&self, maps: &[LinearMap]) -> Result<(), AdapterError> {
        for ((key, _), (regex, _)) in self.0.iter().zip(&self.matcher()?.0) {
            if !met(regex, maps) {
                let key = key.clone();
                let known = super::lora::names(maps).join(", ");
                return Err(AdapterError::PatternOfNothing { key, known });
            }
        }
        Ok(())
    }

    pub(super) fn matcher(&self) -> Result<Matcher, AdapterError> {
        let keys = self.0.iter().map(|(key, number)| {
            let regex = Regex::new(&format!(r"^(.*\.)?({key})$"));
            regex
                .map(|regex| (regex, *number))
                .map_err(|_| AdapterError::Pattern(key.clone()))
        });
        keys.collect::<Result<_, _>>().map(Matcher)
    }
}

impl Matcher {
    /// The number for a map.
    pub(super) fn of(&self, module: &str) -> Option<u32> {
        let found = self.0.iter().find(|(key, _)| key.is_match(module));
        found.map(|(_, number)| *number)
    }
}

fn met(key: &Regex, maps: &[LinearMap]) -> bool {
    maps.iter().any(|map| key.is_match(&map.module))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_that_ends_a_name_counts() {
        let keys = r#"{"layers\\.(0|2)\\..*": 3, "q_proj": 5, "mlp.down_proj": 7, "proj": 9}"#;
        let pattern = Pattern::from_json(&serde_json::from_str(keys).unwrap(), "k").unwrap();
        assert_eq!(
            pattern.to_json().to_string(),
            keys.replace(": ", ":").replace(", ", ",")
        );
        let matcher = pattern.matcher().unwrap();
        for (module, number) in [
            ("model.layers.0.self_attn.q_proj", Some(3)),
            ("model.layers.1.self_attn.q_proj", Some(5)),
            ("model.layers.1.mlp.down_proj", Some(7)),
            ("model.layers.1.down_proj", None),
            ("q_proj", Some(5)),
            ("my.proj", Some(9)),
        ] {
            assert_eq!(matcher.of(module), number, "{module}");
        }
        let broken = Pattern(vec![("q_(".into(), 1)]).matcher().err().unwrap();
        assert!(broken.to_string().contains("\"q_(\""), "{broken}");
        for bad in [json!({"q": 1.5}), json!({"q": "8"}), json!([8])] {
            assert!(
                Pattern::from_json(&bad, "rank_pattern")
                    .unwrap_err()
                    .contains("rank_pattern")
            );
        }
    }
}
