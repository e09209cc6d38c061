//! A bare encoder for a testnet: its folder once more, with the labels of the rows in its `config.json`.
//!
//! Members of a federation must mean the same label by the same number, so the base's `config.json` names them. A
//! testnet holds all rows before it deals them out, and so may name them itself.

use std::fs;
use std::path::Path;

use super::TestnetError;
use crate::learn::model::config::Config;

/// Writes the model's folder to `into`: links to its files, and a `config.json` of its own that names the labels.
pub(super) fn write(model: &Path, config: &Config, into: &Path) -> Result<(), TestnetError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        |source| TestnetError::Io { path, source }
    };
    let model = fs::canonicalize(model).map_err(at(model))?;
    fs::create_dir(into).map_err(at(into))?;
    for entry in fs::read_dir(&model).map_err(at(&model))? {
        let name = entry.map_err(at(&model))?.file_name();
        if name != CONFIG {
            let link = into.join(&name);
            std::os::unix::fs::symlink(model.join(&name), &link).map_err(at(&link))?;
        }
    }
    let path = into.join(CONFIG);
    fs::write(&path, config.to_bare_json()).map_err(at(&path))
}

const CONFIG: &str = "config.json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::export::write_model;
    use crate::learn::fixture::{encoder, folder};
    use crate::learn::model::{self, Model};

    #[test]
    fn the_folder_has_the_labels_and_the_same_tensors_and_is_one_base_everywhere() {
        let bare = folder();
        write_model(bare.path(), &encoder("BertModel")).unwrap();
        let place = tempfile::tempdir().unwrap();
        let mut config = Config::read(bare.path()).unwrap();
        assert!(config.labels.is_empty());
        config
            .set_labels(vec!["no".to_owned(), "yes".to_owned()])
            .unwrap();
        let into = ["one", "two"].map(|name| place.path().join(name));
        for folder in &into {
            write(bare.path(), &config, folder).unwrap();
        }
        let named = Model::open(&into[0]).unwrap();
        assert_eq!(named.config().labels, ["no", "yes"]);
        assert_eq!(named.config().parts(), config.parts());
        let kept = Model::open(bare.path()).unwrap();
        assert_eq!(named.identity(), kept.identity());
        let [one, two] = into.map(|folder| model::digest(&folder).unwrap());
        assert_eq!(one, two);
        assert_ne!(one, model::digest(bare.path()).unwrap());
    }
}
