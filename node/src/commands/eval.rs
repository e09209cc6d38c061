//! `conclave eval`: what a model, with or without an adapter, scores on rows.

use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::Context as _;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::loading::{Loaded, flag, full, pool, threads};
use super::source::Source;
use super::writing::{Script, Writing};
use crate::cli::{note, print, print_json};
use crate::learn::choose::choose;
use crate::learn::data::{Corpus, Form, Row, Tokens};
use crate::learn::evaluate::{Measured, classify, evaluate};
use crate::learn::model::decode::Decoding;
use crate::learn::prepare::excess;
use crate::learn::score::bleu::Bleu;
use crate::learn::score::labels::Labels;
use crate::learn::score::{answer, rouge};
use crate::learn::trainer::{TrainError, admit};
use crate::learn::training::Training;

const EXAMPLE: &str = "Examples:
  conclave eval --model llama/ --adapter adapter/ --data held-out.jsonl
  conclave eval --model llama/ --adapter adapter/ --data intents.csv --labels
  conclave eval --dir berlin/ --data questions.jsonl --generate 100";

/// Scoring.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Rows to score: JSON Lines or CSV (also `.gz`) or Parquet, a file or a folder of them.
    #[arg(long, value_name = "PATH")]
    data: std::path::PathBuf,
    /// Score the field `label` behind the text, and choose the likeliest of all labels of the data: accuracy, F1.
    #[arg(long)]
    labels: bool,
    /// Generate completions for the first N rows that have one: BLEU, ROUGE-L, and right answers behind `####`.
    #[arg(long, value_name = "N", conflicts_with = "labels", value_parser = clap::value_parser!(u32).range(1..))]
    generate: Option<u32>,
    /// Most tokens of a generated completion.
    #[arg(long, value_name = "N", default_value_t = 256, requires = "generate")]
    max_tokens: usize,
    /// Rows are cut to this many tokens; by default the smaller of 512 and the model's context.
    #[arg(long)]
    sequence_len: Option<u32>,
    /// Threads to compute on; by default all.
    #[arg(long)]
    threads: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Completions beside their references.
struct Generated {
    rows: usize,
    bleu: f64,
    rouge_l: f64,
    /// Rows whose reference has a final answer, and those with the same one.
    answers: (u32, u32),
}

/// Runs it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let training = Training {
        sequence_len: args.sequence_len,
        ..Training::default()
    };
    training.check().map_err(flag)?;
    let threads = threads(args.threads)?;
    let (loaded, folder) = args.source.open()?;
    // A GPU computes for one at a time.
    let pool = pool(if loaded.model.device().is_cpu() {
        threads
    } else {
        1
    })?;
    anyhow::ensure!(
        loaded.model.config().outputs() > 0,
        "{}: the model is an encoder without a classification head; give --adapter with one that brings it",
        folder.display()
    );
    let context = loaded.context();
    if let Some(asked) = args.sequence_len.filter(|len| *len as usize > context) {
        return Err(TrainError::Context {
            asked: asked as usize,
            context,
        }
        .into());
    }
    let bounds = training.bounds_for(loaded.context());
    let length = bounds.most;
    let classes = &loaded.model.config().labels;
    let tokens = Tokens::open(&folder)?.telling_apart(classes);
    let classifies = loaded.model.config().classifies();
    if args.generate.is_some() && classifies {
        return Err(flag(
            "--generate: the model tells labels apart and writes nothing; leave it out",
        ));
    }
    let labels = args.labels || classifies;
    // Rows are only held where more than their tokens is asked for, and no more of them; a classifier's labels are
    // among the tokens.
    let mut rows = Vec::new();
    let pairs = args.generate.unwrap_or(0) as usize;
    let corpus = Corpus::read(&tokens, &args.data, bounds, |row| {
        let row = if labels { row.labelled()? } else { row };
        if args.labels && !classifies || rows.len() < pairs && matches!(row.form, Form::Pair { .. })
        {
            rows.push(row.clone());
        }
        Ok(row)
    })?;
    if let Some(excess) = excess(corpus.cut, bounds) {
        note(&excess);
    }
    let all = corpus.rows();
    let examples = Arc::new(corpus).part(0..all);
    admit(loaded.model.config(), loaded.context(), &examples)?;
    let mut labels = labels.then(Labels::default);
    let measured = pool.install(|| {
        let (model, moving) = (&loaded.model, loaded.moving());
        if !classifies {
            return evaluate(model, &moving, &examples);
        }
        classify(model, &moving, &examples, |has, chosen| {
            if let (Some(labels), [Some(has), Some(chosen)]) =
                (&mut labels, [has, chosen].map(|label| tokens.class(label)))
            {
                labels.add(has, chosen);
            }
        })
    });
    let measured = measured.map_err(full)?.context("no token counts")?;
    if let Some(labels) = labels.as_mut().filter(|_| !classifies) {
        *labels = pool.install(|| label(&loaded, &tokens, &rows, length))?;
    }
    let generated = if args.generate.is_some() {
        Some(pool.install(|| complete(args, &loaded, &tokens, &rows))?)
    } else {
        None
    };
    if args.json {
        print_json(&object(&measured, labels.as_ref(), generated.as_ref()));
    } else {
        show(&measured, labels.as_ref(), generated.as_ref());
    }
    Ok(())
}

/// The likeliest label of each row, beside its own.
fn label(loaded: &Loaded, tokens: &Tokens, rows: &[Row], length: usize) -> anyhow::Result<Labels> {
    let mut names: Vec<String> = rows.iter().filter_map(|row| row.field("label")).collect();
    names.sort();
    names.dedup();
    let choices: Vec<Vec<u32>> = names
        .iter()
        .map(|name| tokens.label(name))
        .collect::<Result<_, _>>()?;
    let longest = choices.iter().map(Vec::len).max().unwrap_or(0);
    if let Some(name) = names
        .iter()
        .zip(&choices)
        .find_map(|(name, ids)| (ids.len() >= length).then_some(name))
    {
        return Err(flag(format!(
            "label {name:?} does not fit within --sequence-len {length}; raise it"
        )));
    }
    let chosen: Vec<(String, usize)> = rows
        .par_iter()
        .map_init(
            || Decoding::new(&loaded.model, loaded.adapter.as_ref()),
            |decoding, row| -> anyhow::Result<(String, usize)> {
                let (Form::Labelled { text, label }, at) = (&row.form, &row.at) else {
                    anyhow::bail!("a row without a label");
                };
                let mut prompt = tokens.prompt(text)?;
                prompt.truncate(length - longest);
                anyhow::ensure!(
                    !prompt.is_empty(),
                    "{at}: field text is empty; give some words"
                );
                let chosen = choose(decoding, &prompt, &choices).map_err(full)?;
                Ok((label.clone(), chosen))
            },
        )
        .collect::<Result<_, _>>()?;
    let mut labels = Labels::default();
    for (has, index) in &chosen {
        labels.add(has, &names[*index]);
    }
    Ok(labels)
}

/// Generated completions of those rows that have one.
fn complete(
    args: &Args,
    loaded: &Loaded,
    tokens: &Tokens,
    rows: &[Row],
) -> anyhow::Result<Generated> {
    let pairs = rows.iter().filter_map(|row| match &row.form {
        Form::Pair { prompt, completion } => Some((prompt, completion, &row.at)),
        _ => None,
    });
    let pairs: Vec<_> = pairs.collect();
    if pairs.is_empty() {
        return Err(flag("--generate: no row has prompt and completion"));
    }
    let context = loaded.context();
    let writing = Writing {
        max_tokens: args.max_tokens,
        temperature: 0.0,
        top_p: None,
        stop: Vec::new(),
        seed: 0,
    };
    let texts: Vec<String> = pairs
        .par_iter()
        .map_init(
            || Script::new(Decoding::new(&loaded.model, loaded.adapter.as_ref())),
            |script, (prompt, _, at)| -> anyhow::Result<String> {
                let ids = tokens.prompt(prompt)?;
                anyhow::ensure!(
                    !ids.is_empty() && ids.len() < context,
                    "{at}: the prompt has {} tokens, and the model takes between 1 and {}; leave the row out",
                    ids.len(),
                    context - 1
                );
                let go = |_: &str| ControlFlow::Continue(());
                Ok(script.write(tokens, &ids, &writing, &mut writing.sampler(), go)?.0)
            },
        )
        .collect::<Result<_, _>>()?;
    let (mut bleu, mut rouge_l, mut answers) = (Bleu::default(), 0.0, (0, 0));
    for (text, (_, completion, _)) in texts.iter().zip(&pairs) {
        bleu.add(text, completion);
        rouge_l += rouge::rouge_l(text, completion);
        if let Some(expected) = answer(completion) {
            answers.0 += 1;
            answers.1 += u32::from(answer(text).as_ref() == Some(&expected));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "row counts are small")]
    let count = pairs.len() as f64;
    Ok(Generated {
        rows: pairs.len(),
        bleu: bleu.score(),
        rouge_l: rouge_l / count,
        answers,
    })
}

impl Generated {
    /// The share of right answers, where there are any.
    fn right(&self) -> Option<f64> {
        let (all, right) = self.answers;
        (all > 0).then(|| f64::from(right) / f64::from(all))
    }
}

fn object(measured: &Measured, labels: Option<&Labels>, generated: Option<&Generated>) -> Value {
    let mut object = json!({
        "examples": measured.examples,
        "tokens": measured.tokens,
        "loss": measured.loss,
        "perplexity": measured.perplexity,
        "accuracy": labels.map_or(measured.accuracy, Labels::accuracy),
    });
    if let Some(labels) = labels {
        object["macro_f1"] = labels.macro_f1().into();
        let class = |(name, class): (&str, &crate::learn::score::labels::Class)| {
            let counts = json!({"rows": class.rows, "chosen": class.chosen, "right": class.right, "f1": class.f1()});
            (name.to_owned(), counts)
        };
        object["labels"] = Value::Object(labels.classes().map(class).collect());
    }
    if let Some(generated) = generated {
        object["generated"] = generated.rows.into();
        object["bleu"] = generated.bleu.into();
        object["rouge_l"] = generated.rouge_l.into();
        if let Some(right) = generated.right() {
            object["exact_match"] = right.into();
        }
    }
    object
}

fn show(measured: &Measured, labels: Option<&Labels>, generated: Option<&Generated>) {
    print(&format!(
        "{} examples, {} scored tokens: loss {:.4}, perplexity {:.3}, accuracy of tokens {:.3}",
        measured.examples, measured.tokens, measured.loss, measured.perplexity, measured.accuracy
    ));
    if let Some(labels) = labels {
        let widest = labels
            .classes()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        print(&format!("{:widest$}  rows  chosen  right     F1", "label"));
        for (name, class) in labels.classes() {
            print(&format!(
                "{name:widest$} {:>5} {:>7} {:>6}  {:.3}",
                class.rows,
                class.chosen,
                class.right,
                class.f1()
            ));
        }
        print(&format!(
            "accuracy of labels {:.4}, mean F1 {:.4}",
            labels.accuracy(),
            labels.macro_f1()
        ));
    }
    if let Some(generated) = generated {
        print(&format!(
            "{} completions: BLEU {:.2}, ROUGE-L {:.4}",
            generated.rows, generated.bleu, generated.rouge_l
        ));
        if let Some(right) = generated.right() {
            print(&format!(
                "right answers {right:.4} of {}",
                generated.answers.0
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::device::Device;
    use crate::learn::export::write_model;
    use crate::learn::fixture::{encoder, folder};
    use crate::learn::weights::quantised::Precision;

    #[test]
    fn a_bare_encoder_is_refused_before_any_row_is_read() {
        let folder = folder();
        write_model(folder.path(), &encoder("BertModel")).unwrap();
        let args = Args {
            source: Source {
                model: Some(folder.path().to_owned()),
                adapter: None,
                dir: None,
                any_base: false,
                precision: Precision::F32,
                device: Device::Cpu,
            },
            data: folder.path().join("none"),
            labels: false,
            generate: None,
            max_tokens: 1,
            sequence_len: None,
            threads: Some(1),
            json: true,
        };
        let said = run(&args).unwrap_err().to_string();
        assert!(said.contains("without a classification head"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
