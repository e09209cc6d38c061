//! The names of a classifier's outputs, as `id2label` of a `config.json` gives them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::ConfigError;
use super::keys::Keys;

/// Whether `id2label` has names of somebody's, not those that transformers makes up.
pub(super) fn named(keys: Keys<'_>) -> bool {
    let Some(Value::Object(map)) = keys.value("id2label") else {
        return false;
    };
    map.iter().any(|(id, name)| *name != format!("LABEL_{id}"))
}

/// The labels of a classifier in the order of its outputs, from `id2label`.
pub(super) fn labels(keys: Keys<'_>) -> Result<Vec<String>, ConfigError> {
    let wrong = || {
        let reason = "id2label must name each of the labels 0, 1, … once";
        keys.malformed(reason.into())
    };
    let Some(Value::Object(map)) = keys.value("id2label") else {
        // transformers' default.
        return Ok(vec!["LABEL_0".to_owned(), "LABEL_1".to_owned()]);
    };
    let name = |id: usize| map.get(&id.to_string()).and_then(Value::as_str);
    let names = (0..map.len()).map(|id| name(id).map(str::to_owned));
    let names: Vec<String> = names.collect::<Option<_>>().ok_or_else(wrong)?;
    let distinct: BTreeSet<&String> = names.iter().collect();
    if names.is_empty() || distinct.len() < names.len() {
        return Err(wrong());
    }
    Ok(names)
}
