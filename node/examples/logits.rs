//! Prints a model's logits for given tokens, for comparisons with other programs (`scripts/interop`).
//!
//! `logits MODEL IDS [ADAPTER]`: the folders of a model and of a PEFT adapter, and token ids as a JSON list. Prints
//! one JSON list a token: the logits of what follows it; of a classifier one list: those of the labels. Where IDS is a
//! JSON string, a text, its ids are printed.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use conclave::learn::batch::Batch;
use conclave::learn::data::Tokens;
use conclave::learn::model::Model;
use conclave::learn::model::adapted::Moving;
use conclave::learn::model::decode::Decoding;
use conclave::learn::peft::folder;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, ids, rest @ ..] = &arguments[..] else {
        anyhow::bail!("usage: logits MODEL IDS [ADAPTER]");
    };
    if let Ok(text) = serde_json::from_str::<String>(ids) {
        let ids = Tokens::open(Path::new(model))?.prompt(&text)?;
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&ids)?)?;
        return Ok(());
    }
    let mut model = Model::open(Path::new(model))?;
    let ids: Vec<u32> = serde_json::from_str(ids).context("IDS is a JSON list of token ids")?;
    let bound = match rest.first() {
        None => None,
        Some(adapter) => {
            let (adapter, values) = folder::open(Path::new(adapter), &mut model)?;
            Some(adapter.bind(&adapter.flat().tensors(&values, |_| false)?))
        }
    };
    let config = model.config();
    let (most, vocabulary) = (config.context, config.vocabulary);
    ensure!(
        (1..=most).contains(&ids.len()),
        "give 1 to {most} token ids"
    );
    ensure!(
        ids.iter().all(|id| (*id as usize) < vocabulary),
        "token ids lie below {vocabulary}"
    );
    ensure!(
        config.outputs() > 0,
        "an encoder without a head needs an adapter"
    );
    let rows = if config.classifies() {
        let moving = bound.map_or(Moving::Nothing, Moving::Adapter);
        model.label_logits(&Batch::text(&ids), &moving)?
    } else {
        let logits = Decoding::new(&model, bound.as_ref()).extend_all(&ids)?;
        let rows = logits.chunks_exact(config.outputs());
        rows.map(<[f32]>::to_vec).collect()
    };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&rows)?)?;
    Ok(())
}
