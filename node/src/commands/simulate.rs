//! `conclave simulate`: a federation in a deterministic world, with the members that the node runs.

mod account;
mod lines;
mod plan;
mod show;

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use conclave_crypto::fraction::Fraction;
use conclave_protocol::sim::{World, check};
use conclave_protocol::time::{Span, Time};

use self::account::Account;
use self::plan::{Distance, Plan, probability};
use self::show::Show;
use crate::allocator;
use crate::cli::{self, FlagError};
use crate::report::churn;
use crate::testnet::listen_for_signals;

const EXAMPLE: &str = "Examples:
  conclave simulate --members 7 --rounds 10 --churn 0.2
  conclave simulate --members 20 --rounds 20 --churn 0.1 --byzantine 0.2 --seed 7 --plot churn.svg
  conclave simulate --members 50 --rounds 5 --latency 100 --json

In each round each member crashes with the probability of --churn, at a random moment, and is back after half a round on
average. The same flags and seed give the same run, byte for byte, on every machine.";

/// The flags of `simulate`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// How many members: 3 to 200.
    #[arg(long, value_name = "N", default_value_t = 5)]
    members: u32,
    /// How many training rounds, won or not.
    #[arg(long, value_name = "R", default_value_t = 6)]
    rounds: u32,
    /// How probably each member crashes in each round.
    #[arg(long, value_name = "P", default_value = "0", value_parser = probability)]
    churn: Fraction,
    /// How probably each message is lost.
    #[arg(long, value_name = "P", default_value = "0", value_parser = probability)]
    loss: Fraction,
    /// How far the members are from each other: ten cities (wan), one room (lan), or so many milliseconds.
    #[arg(long, value_name = "wan|lan|MS", default_value = "wan")]
    latency: Distance,
    /// How probably the network is cut in two in each round, for half a round on average.
    #[arg(long, value_name = "P", default_value = "0", value_parser = probability)]
    partition: Fraction,
    /// How probably each link between two members is lost in each round, for half a round on average; others relay.
    #[arg(long, value_name = "P", default_value = "0", value_parser = probability)]
    broken_links: Fraction,
    /// Which part of the members follows hostile scripts, rounded down to whole members; less than a third.
    #[arg(long, value_name = "P", default_value = "0", value_parser = probability)]
    byzantine: Fraction,
    /// Everything random comes from it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Draw rounds, dropouts and bytes into this file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// So long nothing may be decided, in virtual time: no fault of a simulation lasts nearly as long.
const PATIENCE: Span = Span::seconds(1800);

/// How often the run looks up from the world.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Runs the simulation; ends well only if nothing promised was broken and all members agree.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let plan = Plan {
        members: args.members,
        rounds: args.rounds,
        churn: args.churn,
        loss: args.loss,
        latency: args.latency,
        partition: args.partition,
        broken_links: args.broken_links,
        byzantine: args.byzantine,
        seed: args.seed,
    };
    plan.check().map_err(FlagError)?;
    if let Some(path) = &args.plot {
        plan::writable(path).map_err(FlagError)?;
    }
    allocator::take_small_pages();
    let interrupted = listen_for_signals();
    // The thread that performs what the members want takes its part of their work. (It fails where there is a pool.)
    let _same = rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global();
    let started = Instant::now();
    let world = World::new(plan.terms(), plan.climate().faults(&plan.terms()));
    // The process ends with it: the system takes gigabytes back faster than they are given back piece by piece.
    let mut world = ManuallyDrop::new(world);
    let mut show = Show::begin(&plan, &world, args.json);
    let end = live(&mut world, &mut show, &interrupted);
    show.end();
    if interrupted.load(Ordering::Relaxed) {
        bail!(
            "interrupted after {} of {} rounds; the same command begins again",
            show.rounds(),
            plan.rounds
        );
    }
    let account = Account::of(&plan, &world, end.err(), started.elapsed());
    if args.json {
        cli::print_json(&account.json());
    } else {
        cli::print(&account.summary());
    }
    let drawn = args
        .plot
        .as_ref()
        .map_or(Ok(()), |path| draw(path, &account, &world));
    match (account.verdict(), drawn) {
        // A broken promise weighs more than a drawing that could not be written.
        (Err(broken), Err(undrawn)) => {
            cli::note(&format!("{undrawn:#}"));
            Err(broken)
        }
        (verdict, drawn) => verdict.and(drawn),
    }
}

/// Writes the drawing of `--plot`.
fn draw(path: &Path, account: &Account, world: &World) -> anyhow::Result<()> {
    let svg = churn::svg(&account.churn(world));
    std::fs::write(path, svg).with_context(|| format!("--plot {}", path.display()))?;
    cli::note(&format!("plot: {}", path.display()));
    Ok(())
}

/// Runs the world to its end and shows each round as soon as it is known what became of it.
fn live(world: &mut World, show: &mut Show, interrupted: &AtomicBool) -> Result<(), String> {
    loop {
        let seen = world.watch().diary.records.len();
        let looked = Cell::new(Instant::now());
        let moved = Cell::new(false);
        let pause = |world: &World| {
            moved.set(over(world) || world.watch().diary.records.len() > seen);
            moved.get()
                || interrupted.load(Ordering::Relaxed)
                || looked.get().elapsed() >= LOOK_EVERY
        };
        world
            .run(Time(u64::MAX), pause)
            .map_err(|stuck| stuck.to_string())?;
        show.look(world);
        if interrupted.load(Ordering::Relaxed) {
            return Ok(());
        }
        if moved.get() && over(world) {
            break;
        }
    }
    if let Some((place, reason)) = halted(world).next() {
        return Err(format!("member {place} halted: {reason}"));
    }
    if world.finished() {
        return Ok(());
    }
    Err(format!(
        "nothing was decided for {} virtual seconds{}",
        PATIENCE.0 / 1000,
        world.whereabouts()
    ))
}

/// Whether there is nothing more to come.
fn over(world: &World) -> bool {
    let last = world.watch().diary.decided.values().next_back();
    let since = world.now() - last.copied().unwrap_or_default();
    world.finished() || halted(world).next().is_some() || since > PATIENCE
}

/// The honest members that stopped, and why.
fn halted(world: &World) -> impl Iterator<Item = (&usize, &String)> {
    let halted = world.watch().halted.iter();
    halted.filter(|(place, _)| !world.is_hostile(**place))
}

/// The broken promises of a world, in words.
fn violations(world: &World) -> Vec<String> {
    let found = check::all(world).err();
    found.iter().map(ToString::to_string).collect()
}
