//! The embedded base model: generated, byte-level, trained by our own engine (`scripts/base-model`).

use std::io;
use std::path::{Path, PathBuf};

use crate::learn::model::config::Config;

/// What to say wherever this model is shown.
pub const LABEL: &str = "the embedded base model (generated, for demonstrations only)";

/// The files of the model's folder.
const FILES: [(&str, &[u8]); 4] = [
    ("config.json", include_bytes!("base/config.json")),
    ("tokenizer.json", include_bytes!("base/tokenizer.json")),
    (
        "model.safetensors",
        include_bytes!("base/model.safetensors"),
    ),
    ("README.md", include_bytes!("base/README.md")),
];

/// Its shape.
#[expect(clippy::missing_panics_doc, reason = "the embedded file is whole")]
pub fn config() -> Config {
    let text = include_str!("base/config.json");
    Config::parse(text, Path::new("config.json")).expect("a whole configuration is embedded")
}

/// Why the embedded model could not be written out.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the embedded base model to {}: {source}; give another folder or make room", path.display())]
pub struct UnpackError {
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Writes the model to `folder`, made if absent: `config.json`, `tokenizer.json`,
/// `model.safetensors` and a README that says what it is.
///
/// Files that hold the same bytes already stay; others of these names are refused, not overwritten.
pub fn unpack(folder: &Path) -> Result<(), UnpackError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| UnpackError { path, source }
    };
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    for (name, bytes) in FILES {
        let path = folder.join(name);
        match std::fs::read(&path) {
            Ok(found) if found == bytes => {}
            Ok(_) => {
                let other = io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "another file of this name is there",
                );
                return Err(failed(&path)(other));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::write(&path, bytes).map_err(failed(&path))?;
            }
            Err(error) => return Err(failed(&path)(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::learn::batch::Batch;
    use crate::learn::data::{Place, Row, Tokens};
    use crate::learn::model::Model;
    use crate::learn::model::adapted::Moving;
    use crate::scenario::Scenario;

    #[test]
    fn it_is_small_and_nothing_is_overwritten() {
        let total: usize = FILES.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(total <= 4 << 20, "{total} bytes");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = dir.path().join("base");
        unpack(&folder).expect("written");
        unpack(&folder).expect("the same bytes are left alone");
        let readme = std::fs::read_to_string(folder.join("README.md")).expect("read");
        assert!(readme.contains("Generated") && readme.contains("scripts/base-model"));
        std::fs::write(folder.join("config.json"), "mine").expect("written");
        let said = unpack(&folder).expect_err("refused").to_string();
        assert!(
            said.contains("config.json: another file of this name"),
            "{said}"
        );
        let kept = std::fs::read_to_string(folder.join("config.json")).expect("read");
        assert_eq!(kept, "mine");
    }

    #[test]
    fn it_loads_and_knows_the_public_part_but_no_private_facts() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        unpack(dir.path()).expect("written");
        let (model, tokens) = (
            Model::open(dir.path()).expect("a model"),
            Tokens::open(dir.path()).expect("tokens"),
        );
        let loss = |lines: &[String]| {
            let file: Arc<Path> = Arc::from(Path::new("rows"));
            let rows = lines.iter().map(|line| {
                Row::parse(
                    line,
                    Place {
                        file: Arc::clone(&file),
                        line: 1,
                    },
                )
            });
            let rows: Vec<_> = rows.collect::<Result<_, _>>().expect("rows");
            let examples = tokens.tokenise_all(&rows, 128).expect("tokenised");
            assert_eq!(examples.cut, 0);
            let batch = Batch::pack(&examples.examples);
            let score = model.score(&batch, &Moving::Nothing).expect("computed");
            score.nats / f64::from(u32::try_from(batch.scored()).expect("a count"))
        };
        for scenario in Scenario::ALL {
            let public = loss(&scenario.general(99, 64));
            let private = loss(&scenario.generate(99, 3).members[0][..64]);
            assert!(
                public < 1.0 && private > 2.0,
                "{scenario}: public {public}, private {private}"
            );
        }
        let ids = tokens.prompt("A dose?\n").expect("ids");
        assert_eq!(
            (ids[0], tokens.decode(&ids).expect("text")),
            (256, "A dose?\n".to_owned())
        );
    }
}
