//! Prints the loss and the gradient of an adapter, for comparisons with other programs (`scripts/interop`).
//!
//! `gradients MODEL ADAPTER ROWS`: the folders of a model and of a PEFT adapter, and rows of token ids as a JSON list
//! of lists. The rows are packed; each token but the first of a row is scored, in rows of a classifier the last alone:
//! a label. Prints one JSON object: the mean loss in nats, and by PEFT's names the gradient of each tensor, row-major.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use conclave::learn::batch::Batch;
use conclave::learn::data::Example;
use conclave::learn::model::Model;
use conclave::learn::model::adapted::Moving;
use conclave::learn::peft::folder;
use serde_json::{Map, json};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, adapter, rows] = &arguments[..] else {
        anyhow::bail!("usage: gradients MODEL ADAPTER ROWS");
    };
    let rows: Vec<Vec<u32>> = serde_json::from_str(rows).context("ROWS is a list of lists")?;
    ensure!(rows.iter().all(|row| row.len() > 1), "a row has two ids");
    let mut model = Model::open(Path::new(model))?;
    let (adapter, values) = folder::open(Path::new(adapter), &mut model)?;
    let labelled = model.config().classifies();
    let example = |ids: Vec<u32>| {
        let first = if labelled { ids.len() - 1 } else { 1 };
        let scored = (0..ids.len()).map(|at| at >= first).collect();
        Example { ids, scored }
    };
    let examples: Vec<Example> = rows.into_iter().map(example).collect();
    let batch = Batch::pack(&examples);
    #[expect(clippy::cast_precision_loss, reason = "a few rows")]
    let scored = batch.scored() as f32;
    let flat = adapter.flat();
    let tensors = flat.tensors(&values, |_| true)?;
    let moving = Moving::Adapter(adapter.bind(&tensors));
    let (store, score) = model.gradient(&batch, &moving, 1.0 / scored, false)?;
    let mut gradient = vec![0.0; flat.len()];
    let still = flat.add_gradients(&tensors, &store, &mut gradient)?;
    ensure!(still.is_none(), "{still:?} has no gradient");
    let of = |slot: &conclave::learn::flatten::Slot| {
        let values = &gradient[slot.range.clone()];
        (slot.name.clone(), json!(values))
    };
    let gradients: Map<_, _> = flat.slots().iter().map(of).collect();
    let loss = score.nats / f64::from(scored);
    let said = json!({"loss": loss, "gradients": gradients});
    writeln!(std::io::stdout(), "{said}")?;
    Ok(())
}
