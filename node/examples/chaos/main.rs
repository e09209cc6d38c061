//! Bad days for real processes: `chaos [--minutes M] [--seed N] [--nodes N] [--dir DIR] [--program PATH]`.
//!
//! A federation of real nodes runs on this machine while they are killed, paused, restarted and cut off from each
//! other, at random from the seed, never more of them at a time than the federation can miss. At the end all faults
//! are healed, and it must hold one adapter, verified and equal ledgers, flat memory, and no lost round that had
//! enough members. Partitions need network namespaces (root and `ip`); without, they are left out, and that is said.

mod faults;
mod fleet;
mod ground;
mod verdict;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use faults::Faults;
use fleet::Fleet;
use ground::Ground;

/// What is asked.
struct Settings {
    minutes: f64,
    seed: u64,
    nodes: u32,
    dir: Option<PathBuf>,
    program: PathBuf,
}

/// How long the nodes may take to meet, and to agree at the end.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    let settings = settings()?;
    let ground = Ground::prepare(settings.nodes)?;
    let mut fleet = Fleet::found(&settings, ground)?;
    let about = format!(
        "chaos: {} nodes, {} minutes, seed {}, {}; folders and log in {}",
        settings.nodes,
        settings.minutes,
        settings.seed,
        if fleet.ground.has_networks() {
            "a network each"
        } else {
            "one network: PARTITIONS ARE SKIPPED (they need root and `ip netns`)"
        },
        fleet.dir.display()
    );
    fleet.log.say(&about);
    fleet.until("all nodes to train", PATIENCE, |fleet| {
        fleet
            .views()
            .iter()
            .flatten()
            .filter(|view| view.round > 0)
            .count()
            == fleet.nodes.len()
    })?;
    let end = Instant::now() + Duration::from_secs_f64(settings.minutes * 60.0);
    let mut faults = Faults::new(settings.seed);
    while Instant::now() < end {
        fleet.look()?;
        faults.step(&mut fleet)?;
        std::thread::sleep(TURN);
    }
    faults.heal(&mut fleet)?;
    let healed = Instant::now();
    fleet.until(
        "all nodes to hold the same ledger and adapter",
        PATIENCE,
        Fleet::agrees,
    )?;
    let took = healed.elapsed().as_secs_f64();
    fleet.log.say(&format!(
        "all nodes agreed {took:.0} s after the last fault was healed"
    ));
    fleet.stop()?;
    let failures = verdict::judge(&mut fleet, &faults)?;
    ensure!(
        failures == 0,
        "{failures} of the checks failed; to run it again: scripts/chaos --minutes {} --seed {}",
        settings.minutes,
        settings.seed
    );
    Ok(())
}

fn settings() -> Result<Settings> {
    let here = std::env::current_exe().context("the path of this program is unknown")?;
    let release = here.ancestors().nth(2).context("no folder of binaries")?;
    let mut settings = Settings {
        minutes: 15.0,
        seed: 1,
        nodes: 7,
        dir: None,
        program: release.join("conclave"),
    };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--minutes" => settings.minutes = value.parse().context("--minutes")?,
            "--seed" => settings.seed = value.parse().context("--seed")?,
            "--nodes" => settings.nodes = value.parse().context("--nodes")?,
            "--dir" => settings.dir = Some(value.into()),
            "--program" => settings.program = value.into(),
            _ => bail!(
                "{flag} is unknown: there are --minutes, --seed, --nodes, --dir and --program"
            ),
        }
    }
    ensure!(
        settings.minutes > 0.0 && settings.minutes < 10_000.0,
        "--minutes must be above 0"
    );
    ensure!(
        (4..=50).contains(&settings.nodes),
        "--nodes must be 4 to 50"
    );
    ensure!(
        settings.program.is_file(),
        "{} is not there: cargo build --release",
        settings.program.display()
    );
    Ok(settings)
}

/// What is said, on the terminal and in a file.
struct Log {
    file: std::fs::File,
    started: Instant,
}

impl Log {
    fn say(&mut self, sentence: &str) {
        let line = format!(
            "[{:7.1} s] {sentence}\n",
            self.started.elapsed().as_secs_f64()
        );
        // A terminal that went away must not end the run.
        let _gone = self.file.write_all(line.as_bytes());
        let _gone = std::io::stdout().write_all(line.as_bytes());
    }
}

/// Between two looks at the nodes.
const TURN: Duration = Duration::from_millis(500);
