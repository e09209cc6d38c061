//! Where a command takes its model and adapter from: folders that are named, or the data folder of a node.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::loading::{Loaded, flag};
use crate::config::NodeConfig;
use crate::learn::device::Device;
use crate::learn::weights::quantised::Precision;

/// A model, and an adapter on it.
#[derive(Debug, clap::Args)]
pub struct Source {
    /// The base model: a Hugging Face folder.
    #[arg(long, value_name = "DIR", required_unless_present = "dir")]
    pub model: Option<PathBuf>,
    /// A PEFT folder.
    #[arg(long, value_name = "DIR", conflicts_with = "dir")]
    pub adapter: Option<PathBuf>,
    /// A node's data folder: its model, and the adapter that it adopted last.
    #[arg(long, value_name = "DIR", conflicts_with = "model")]
    pub dir: Option<PathBuf>,
    /// Take the adapter although it names another base: the same model in another number format.
    #[arg(long)]
    pub any_base: bool,
    /// How to hold the frozen linear maps.
    #[arg(long, value_enum, default_value = "f32")]
    pub precision: Precision,
    /// Where to compute: auto, cpu, or cuda:0 in a program that was built for GPUs.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: Device,
}

impl Source {
    /// The folders of the model and of the adapter, if there is one.
    pub fn folders(&self) -> anyhow::Result<(PathBuf, Option<PathBuf>)> {
        if let Some(dir) = &self.dir {
            let model = NodeConfig::open(dir)?.model;
            let model = model.ok_or_else(|| {
                flag(format!(
                    "--dir: {}/node.toml names no model; give --model",
                    dir.display()
                ))
            })?;
            return Ok((model, Some(latest(dir)?)));
        }
        let model = self
            .model
            .clone()
            .ok_or_else(|| flag("--model is missing"))?;
        Ok((model, self.adapter.clone()))
    }

    /// Opens both, as [`Self::open`] does, and refuses a model that continues no texts.
    pub fn open_to_write(&self) -> anyhow::Result<(Loaded, PathBuf)> {
        let (loaded, model) = self.open()?;
        if loaded.model.config().classifies() {
            let model = model.display();
            anyhow::bail!("{model}: the model is an encoder, which continues no text; use eval");
        }
        Ok((loaded, model))
    }

    /// Opens both where they are to compute, and gives the model's folder.
    pub fn open(&self) -> anyhow::Result<(Loaded, PathBuf)> {
        let device = self.device.open().map_err(flag)?;
        let (model, adapter) = self.folders()?;
        let loaded = Loaded::open(&model, adapter.as_deref(), self.any_base, self.precision)?;
        Ok((loaded.on(&device, self.precision)?, model))
    }
}

/// The adapter of the highest round in a data folder.
fn latest(dir: &Path) -> anyhow::Result<PathBuf> {
    let folder = dir.join("adapters");
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        entries => entries
            .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            .with_context(|| format!("--dir: {} cannot be read", folder.display()))?,
    };
    let round = |entry: &std::fs::DirEntry| entry.file_name().to_str()?.parse::<u64>().ok();
    match entries.iter().filter_map(round).max() {
        Some(round) => Ok(folder.join(round.to_string())),
        None => Err(flag(format!(
            "--dir: {} holds no adapter yet; the node adopts one with the first round that is opened",
            folder.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_gives_its_model_and_the_latest_adapter() {
        let dir = tempfile::tempdir().unwrap();
        let source = Source {
            model: None,
            adapter: None,
            dir: Some(dir.path().to_owned()),
            any_base: false,
            precision: Precision::F32,
            device: Device::Cpu,
        };
        let said = source.folders().unwrap_err().to_string();
        assert!(said.contains("names no model"), "{said}");
        std::fs::write(dir.path().join("node.toml"), "model = \"base\"\n").unwrap();
        let said = source.folders().unwrap_err().to_string();
        assert!(said.contains("no adapter yet"), "{said}");
        let adapters = dir.path().join("adapters");
        std::fs::write(&adapters, "no folder").unwrap();
        let said = source.folders().unwrap_err().to_string();
        assert!(said.contains("adapters cannot be read"), "{said}");
        std::fs::remove_file(&adapters).unwrap();
        for round in ["2", "10", ".11.partial", "notes"] {
            std::fs::create_dir_all(dir.path().join("adapters").join(round)).unwrap();
        }
        let (model, adapter) = source.folders().unwrap();
        assert_eq!(model, dir.path().join("base"));
        assert_eq!(adapter, Some(dir.path().join("adapters/10")));
    }
}
