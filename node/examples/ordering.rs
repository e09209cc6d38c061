//! Does federating beat training alone? `ordering --model FOLDER [--scenario S] [--seeds N] [--same]`.
//!
//! Plain averages in one process, without masks or network: the alternating rule over six rounds of
//! twenty steps against each member alone for as many steps, on the same held-out rows. `--same`
//! gives all members identical data, where there is nothing to gain from each other. One JSON line a
//! seed, then a summary; fails unless after < alone < before for every seed (with `--same`: unless
//! the advantage is gone on average).

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use conclave::learn::data::{Chance, Example, Place, Row, Tokens, hold_out};
use conclave::learn::model::Model;
use conclave::learn::peft::{Adapter, AdapterSpec, Targets};
use conclave::learn::steps::Run;
use conclave::learn::trainer::{Subject, Trainer};
use conclave::learn::training::Training;
use conclave::scenario::Scenario;
use conclave_protocol::names::Factor;
use serde_json::json;

const MEMBERS: usize = 5;
const ROUNDS: u64 = 6;
const LOCAL_STEPS: u64 = 20;

struct Settings {
    model: PathBuf,
    scenarios: Vec<Scenario>,
    seeds: u64,
    same: bool,
    base_known: bool,
}

struct Losses {
    before: f64,
    alone: f64,
    after: f64,
}

fn main() -> Result<()> {
    let settings = settings()?;
    let mut out = std::io::stdout();
    let mut kept = true;
    for &scenario in &settings.scenarios {
        let (mut before, mut alone, mut after, mut ordered) = (0.0, 0.0, 0.0, 0);
        for seed in 1..=settings.seeds {
            let losses = measure(&settings, scenario, seed)?;
            let right = losses.after < losses.alone && losses.alone < losses.before;
            ordered += u64::from(right);
            before += losses.before;
            alone += losses.alone;
            after += losses.after;
            let Losses {
                before,
                alone,
                after,
            } = losses;
            let line = json!({"scenario": scenario.name(), "same": settings.same, "seed": seed,
                "before": before, "alone": alone, "after": after, "ordered": right});
            writeln!(out, "{line}")?;
        }
        let seeds = f64::from(u32::try_from(settings.seeds)?);
        let gain = (alone - after) / (before - alone).max(f64::MIN_POSITIVE);
        let good = if settings.same {
            gain < VANISHED
        } else {
            ordered == settings.seeds
        };
        kept &= good;
        let line = json!({"scenario": scenario.name(), "same": settings.same, "seeds": settings.seeds,
            "before": before / seeds, "alone": alone / seeds, "after": after / seeds,
            "gain_of_federating": gain, "ordered": ordered, "as_expected": good});
        writeln!(out, "{line}")?;
    }
    ensure!(kept, "the order is not as expected; see the lines above");
    Ok(())
}

/// What federating may still gain over training alone on identical data, as a share of what
/// training alone gains.
const VANISHED: f64 = 0.02;

fn settings() -> Result<Settings> {
    let mut settings = Settings {
        model: PathBuf::new(),
        scenarios: Scenario::ALL.to_vec(),
        seeds: 10,
        same: false,
        base_known: false,
    };
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        let mut value = || {
            given
                .next()
                .with_context(|| format!("{flag} needs a value"))
        };
        match flag.as_str() {
            "--model" => {
                settings.model = value()?.into();
                settings.base_known = true;
            }
            "--scenario" => settings.scenarios = vec![value()?.parse()?],
            "--seeds" => settings.seeds = value()?.parse().context("--seeds needs a number")?,
            "--same" => settings.same = true,
            _ => bail!("unknown flag {flag}; known: --model, --scenario, --seeds, --same"),
        }
    }
    ensure!(settings.base_known, "give --model FOLDER, the base model");
    Ok(settings)
}

fn measure(settings: &Settings, scenario: Scenario, seed: u64) -> Result<Losses> {
    let tokens = Tokens::open(&settings.model)?;
    let (mut members, mut held) = (Vec::new(), Vec::new());
    for (member, lines) in (0_u64..).zip(scenario.generate(seed, MEMBERS).members) {
        let (train, aside) = hold_out(parse(scenario, &lines)?, MEMBERS, seed * 1000 + member);
        members.push(tokens.tokenise_all(&train, 128)?.examples);
        held.extend(tokens.tokenise_all(&aside, 128)?.examples);
    }
    if settings.same {
        let all: Vec<Example> = members.concat();
        members = vec![all; MEMBERS];
    }
    let trainers = [
        trainer(&settings.model, seed)?,
        trainer(&settings.model, seed)?,
    ];
    let start = trainers[0].initial();
    let score = |values: &[f32]| -> Result<f64> {
        Ok(trainers[0]
            .evaluate(values, &held)?
            .context("held-out rows to score")?
            .loss)
    };
    let before = score(&start)?;
    let mut alone = 0.0;
    for values in each(
        &trainers,
        &members,
        &start,
        Factor::All,
        0,
        ROUNDS * LOCAL_STEPS,
        seed,
    )? {
        alone += score(&values)? / 5.0;
    }
    let mut shared = start;
    for round in 0..ROUNDS {
        let factor = if round % 2 == 0 { Factor::B } else { Factor::A };
        let first = round * LOCAL_STEPS;
        let trained = each(
            &trainers,
            &members,
            &shared,
            factor,
            first,
            first + LOCAL_STEPS,
            seed,
        )?;
        for (index, value) in shared.iter_mut().enumerate() {
            *value = trained.iter().map(|values| values[index]).sum::<f32>() / 5.0;
        }
    }
    Ok(Losses {
        before,
        alone,
        after: score(&shared)?,
    })
}

/// What each member makes of `start`, two members at a time.
fn each(
    trainers: &[Trainer; 2],
    members: &[Vec<Example>],
    start: &[f32],
    factor: Factor,
    first: u64,
    end: u64,
    seed: u64,
) -> Result<Vec<Vec<f32>>> {
    let one = |trainer: &Trainer, member: usize| -> Result<Vec<f32>> {
        let mut draws = [0; 32];
        for (part, number) in [seed, member as u64, first].iter().enumerate() {
            draws[part * 8..part * 8 + 8].copy_from_slice(&number.to_le_bytes());
        }
        let steps = first..end;
        let total = ROUNDS * LOCAL_STEPS;
        let run = Run {
            examples: &members[member],
            factor,
            steps,
            total,
            seed: draws,
        };
        let moved = trainer.run(start, &run, |_| ControlFlow::Continue(()))?;
        let mut values = start.to_vec();
        trainer.flat().layout().scatter(factor, &moved, &mut values);
        Ok(values)
    };
    std::thread::scope(|scope| {
        let half = |which: usize| {
            let one = &one;
            let mine = (which..members.len()).step_by(2);
            scope.spawn(move || {
                mine.map(|member| one(&trainers[which], member))
                    .collect::<Result<Vec<_>>>()
            })
        };
        let halves = [half(0), half(1)];
        let mut made = Vec::new();
        for half in halves {
            let Ok(values) = half.join() else {
                bail!("a training thread broke off")
            };
            made.extend(values?);
        }
        Ok(made)
    })
}

fn trainer(model: &Path, seed: u64) -> Result<Trainer> {
    let model = Model::open(model)?;
    let start = Chance::new(seed, 9).below(1 << 30) as u64;
    let spec = AdapterSpec::lora(8, 16, Targets::AllLinear, start);
    let adapter = Adapter::new(spec, model.config())?;
    Ok(Trainer::new(
        model,
        Subject::Adapter(adapter),
        Training::default(),
        1,
        &Device::Cpu,
    )?)
}

fn parse(scenario: Scenario, lines: &[String]) -> Result<Vec<Row>> {
    let file: Arc<Path> = Arc::from(Path::new(scenario.name()));
    let place = |line| Place {
        file: Arc::clone(&file),
        line,
    };
    Ok((1..)
        .zip(lines)
        .map(|(line, text)| Row::parse(text, place(line)))
        .collect::<Result<_, _>>()?)
}
