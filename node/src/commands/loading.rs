//! What the commands of the engine share: a model with an adapter, threads, flag errors, peak memory.

use std::path::Path;

use candle_core::Device;

use crate::cli::FlagError;
use crate::learn::device::is_full;
use crate::learn::model::Model;
use crate::learn::model::adapted::{AdapterTensors, Moving};
use crate::learn::peft::folder;
use crate::learn::weights::quantised::Precision;

/// A model and, if one was named, an adapter on it.
#[derive(Debug)]
pub struct Loaded {
    /// The base.
    pub model: Model,
    /// The adapter's tensors, where the model computes.
    pub adapter: Option<AdapterTensors>,
}

impl Loaded {
    /// Opens both folders; an adapter that was trained on another base only where `any_base` says so.
    pub fn open(
        model: &Path,
        adapter: Option<&Path>,
        any_base: bool,
        precision: Precision,
    ) -> anyhow::Result<Self> {
        let mut model = Model::open_at(model, precision)?;
        let mut bound = None;
        if let Some(adapter) = adapter {
            let open = if any_base {
                folder::open_on_any
            } else {
                folder::open
            };
            let (adapter, values) = open(adapter, &mut model)?;
            bound = Some(adapter.bind(&adapter.flat().tensors(&values, |_| false)?));
        }
        Ok(Self {
            model,
            adapter: bound,
        })
    }

    /// Sends both to a device.
    pub fn on(self, device: &Device, precision: Precision) -> anyhow::Result<Self> {
        let adapter = self.adapter.as_ref();
        Ok(Self {
            adapter: adapter
                .map(|adapter| adapter.on(device))
                .transpose()
                .map_err(full)?,
            model: self.model.on(device, precision).map_err(full)?,
        })
    }

    /// What a forward pass takes.
    pub fn moving(&self) -> Moving {
        let adapter = self.adapter.clone();
        adapter.map_or(Moving::Nothing, Moving::Adapter)
    }

    /// How many tokens of a text there is room for.
    pub fn context(&self) -> usize {
        let adapter = self.adapter.as_ref();
        self.model.config().context - adapter.map_or(0, AdapterTensors::virtual_tokens)
    }
}

/// An error that is a flag's fault.
#[expect(
    clippy::needless_pass_by_value,
    reason = "errors and sentences come by value"
)]
pub fn flag(message: impl ToString) -> anyhow::Error {
    FlagError(message.to_string()).into()
}

/// What failed on a device; where its memory is too small, with the way out.
pub fn full(error: candle_core::Error) -> anyhow::Error {
    if is_full(&error) {
        return flag(
            "--device: its memory is too small for the model; hold it in fewer bits with --precision, or take \
             --device cpu",
        );
    }
    error.into()
}

/// How many threads to use: as asked, or all.
pub fn threads(asked: Option<usize>) -> anyhow::Result<usize> {
    match asked {
        Some(0) => Err(flag("--threads must be at least 1")),
        Some(n) => Ok(n),
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}

/// Threads to compute on.
pub fn pool(threads: usize) -> anyhow::Result<rayon::ThreadPool> {
    Ok(rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()?)
}

/// The most memory that this process has had resident, from `/proc/self/status`; `None` where there is none.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_is_read_where_the_system_tells_it() {
        if cfg!(target_os = "linux") {
            assert!(peak_rss_bytes().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
