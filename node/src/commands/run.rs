//! `conclave run`: this institution's node, until the job is done or the operator stops it.

mod standing;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use conclave_crypto::sign::PublicKey;
use conclave_protocol::charter::{Admission, Charter};
use conclave_protocol::ledger::Ledger;
use conclave_protocol::member::Member;
use conclave_protocol::memo::Remembered;
use conclave_protocol::names::MemberId;
use conclave_protocol::setup::Setup;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::standing::{is_member, standing};
use crate::cli::FlagError;
use crate::config::{self, NodeConfig};
use crate::driver::{Clock, Driver, End, Guests, Stop, Told};
use crate::learn::engine::{self, EngineSetup};
use crate::learn::peft::{AdapterSpec, Method};
use crate::network::{self, Addressing};
use crate::store::{self, Store};
use crate::{api, cli, keys};

const EXAMPLE: &str = "Example:
  conclave run --dir berlin --bootstrap /ip4/192.0.2.7/tcp/4001

Ctrl-C (SIGINT) stops the node at once; the federation counts on its return. SIGTERM leaves in order: the node goes on
until a record of the others has released it, at most for --leave-within, then stops; a second SIGTERM stops at once.";

/// The flags of `run`: each overrides its key of `node.toml`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The data folder, with `identity.key`, `charter.toml` and `node.toml`.
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// The folder of the base model.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Private rows: a file or a folder. They never leave.
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Rows that score instead of a part of `data`.
    #[arg(long, value_name = "PATH")]
    pub eval_data: Option<PathBuf>,
    /// An address to listen on, such as `/ip4/0.0.0.0/tcp/4001`; repeat for more.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<String>,
    /// An address of a member to begin with; repeat for more.
    #[arg(long, value_name = "ADDRESS")]
    pub bootstrap: Vec<String>,
    /// Threads of the engine.
    #[arg(long)]
    pub threads: Option<usize>,
    /// How long SIGTERM waits for a record that releases this node; then it stops all the same.
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = cli::span)]
    pub leave_within: Duration,
    /// If the database is damaged, keep what is whole, move the file aside, and catch up from the other members.
    #[arg(long)]
    pub repair: bool,
    /// Where the local API listens: a loopback address and port.
    #[arg(long, value_name = "ADDRESS")]
    pub api: Option<SocketAddr>,
    /// Print the final status as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Checks everything, then runs the node.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let config = configuration(args)?;
    let mut addressing = addressing(&config)?;
    let charter = read_charter(&args.dir)?;
    let identity = keys::open(&args.dir)?;
    let (name, entrance) = standing(&charter, &identity, &config, &args.dir);
    let (invite, lacks) = match entrance {
        Ok(invite) => (invite, None),
        // A newcomer cannot enter so; whoever was admitted needs no ticket any more, and its ledger will tell.
        Err(error) if store::exists(&args.dir) => (None, Some(error)),
        Err(error) => return Err(error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let inside = runtime.enter();
    let stops = signals()?;
    drop(inside);
    if args.repair {
        repair(&args.dir, &charter)?;
    }
    let store = Store::open(&args.dir, &charter.digest())?;
    let stored = store.load()?;
    if let Some(lacks) = lacks
        && !is_member(&charter, &identity.public(), &stored)?
    {
        return Err(lacks);
    }
    let door = api::Door::announce(&args.dir)?;
    let setup = engine_setup(&config, &charter, &args.dir)?;
    let model = setup.model.clone();
    let (engine, facts) = engine::start(setup)?;
    if facts.model_digest != charter.model.digest {
        bail!(
            "the model in {} has the digest {}, but the charter was made for {}: use the charter's base model",
            model.display(),
            facts.model_digest,
            charter.model.digest
        );
    }
    cli::note(&facts.about);
    let (end, last) = runtime.block_on(async {
        let (api, asks) = api::start(door, config.api.map_or(0, |address| address.port())).await?;
        let clock = Clock::start();
        let known = network::met(store.addresses()?);
        let (digest, inline_limit) = (charter.digest(), charter.aggregation.inline_limit);
        addressing.guests = charter.admission == Admission::Invite;
        let announced = addressing.announce.clone();
        let founders = charter.members.iter().map(|founder| founder.key).collect();
        let (network, events) = network::start(
            &identity,
            digest,
            founders,
            addressing,
            known,
            inline_limit,
            store.blobs(),
        )?;
        let doubtful = store.is_doubtful()?;
        let setup = Setup {
            charter,
            identity,
            name,
            examples: facts.examples,
            layout: facts.layout,
            initial: facts.initial,
            invite,
            intact: !doubtful,
            memo: Remembered::default(),
        };
        let member = Member::open(setup, stored, clock.now(), rand::random())?;
        network.admit(everybody(member.ledger()));
        let mut told = Told::open(&args.dir).context("metrics.jsonl cannot be opened")?;
        told.announced = announced;
        let driver = Driver {
            member,
            store,
            network,
            events,
            engine,
            asks,
            told,
            clock,
            guests: Guests::default(),
            doubtful,
        };
        let (end, last) = driver.run(stops, args.leave_within).await?;
        drop(api);
        anyhow::Ok((end, last))
    })?;
    report(args, &end, &last)
}

fn configuration(args: &Args) -> anyhow::Result<NodeConfig> {
    let mut config = NodeConfig::open(&args.dir)?;
    let override_with = |flag: &Option<PathBuf>, key: &mut Option<PathBuf>| {
        if flag.is_some() {
            key.clone_from(flag);
        }
    };
    override_with(&args.model, &mut config.model);
    override_with(&args.data, &mut config.data);
    override_with(&args.eval_data, &mut config.eval_data);
    if !args.listen.is_empty() {
        config.listen = Some(args.listen.clone());
    }
    if !args.bootstrap.is_empty() {
        config.bootstrap = Some(args.bootstrap.clone());
    }
    if args.threads == Some(0) {
        bail!(FlagError("--threads 0: it must be at least 1".to_owned()));
    }
    if let Some(api) = args.api.filter(|api| !api.ip().is_loopback()) {
        let reason = "the local API answers on loopback alone; write 127.0.0.1:PORT";
        bail!(FlagError(format!("--api {api}: {reason}")));
    }
    config.threads = args.threads.or(config.threads);
    config.api = args.api.or(config.api);
    Ok(config)
}

fn addressing(config: &NodeConfig) -> anyhow::Result<Addressing> {
    let mut listen = config::addresses("listen", config.listen.as_deref())?;
    if listen.is_empty() {
        listen.push("/ip4/0.0.0.0/tcp/0".parse().expect("an address"));
        listen.push("/ip4/0.0.0.0/udp/0/quic-v1".parse().expect("an address"));
    }
    let announce = config::addresses("announce", config.announce.as_deref())?;
    Ok(Addressing {
        listen,
        announce,
        bootstrap: config::addresses("bootstrap", config.bootstrap.as_deref())?,
        guests: false,
    })
}

fn read_charter(dir: &Path) -> anyhow::Result<Charter> {
    let path = dir.join("charter.toml");
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "{} cannot be read: put the federation's charter there",
            path.display()
        )
    })?;
    Charter::parse(&text).with_context(|| path.display().to_string())
}

/// Everybody who ever was a member.
fn everybody(ledger: &Ledger) -> Vec<PublicKey> {
    let people = (0..).map(MemberId).map_while(|id| ledger.person(id));
    people.map(|person| person.key).collect()
}

fn engine_setup(config: &NodeConfig, charter: &Charter, dir: &Path) -> anyhow::Result<EngineSetup> {
    let model = config
        .model
        .clone()
        .context("no base model: set `model` in node.toml or give --model DIR")?;
    let data = config
        .data
        .clone()
        .context("no data: set `data` in node.toml or give --data PATH")?;
    let adapter = AdapterSpec {
        method: Method::agreed(&charter.adapter.method, &model)?,
        seed: charter.adapter.seed,
    };
    Ok(EngineSetup {
        model,
        data,
        eval_data: config.eval_data.clone(),
        adapter,
        training: (&config.training).into(),
        rounds: charter.round.rounds,
        local_steps: charter.round.local_steps,
        threads: config
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        adapters: Some(dir.join("adapters")),
    })
}

/// What the operator wants: Ctrl-C stops at once, SIGTERM leaves in order.
fn signals() -> anyhow::Result<mpsc::Receiver<Stop>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A limit on the size of files answers as a full disk does, not by a death without a word.
    let mut beyond_limit = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
    let (tell, stops) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let stop = tokio::select! {
                _ = interrupt.recv() => Stop::Now,
                _ = terminate.recv() => Stop::Leave,
                _ = beyond_limit.recv() => continue,
            };
            if tell.send(stop).await.is_err() {
                return;
            }
        }
    });
    Ok(stops)
}

/// Repairs the database, and says what was done.
fn repair(dir: &Path, charter: &Charter) -> anyhow::Result<()> {
    let Some(done) = store::repair(dir, charter)? else {
        cli::note("nothing is damaged");
        return Ok(());
    };
    let aside = done.aside.display();
    cli::note(&format!(
        "kept {} rows with {} records; the damaged file is {aside}{}",
        done.kept,
        done.records,
        if done.intact {
            ""
        } else {
            "; what this node said last may be lost: it asks the others before it says anything new"
        }
    ));
    Ok(())
}

fn report(args: &Args, end: &End, told: &Told) -> anyhow::Result<()> {
    let last = told.last();
    match end {
        End::Finished { head, adapter } => {
            write_final(&args.dir, last)?;
            cli::note(&format!("finished: adapter {adapter}, ledger head {head}"));
        }
        End::Left { reason: None } => cli::note(
            "left in order: the others count on this node no more; start it with the same folder to come back",
        ),
        End::Left {
            reason: Some(reason),
        } => cli::note(&format!(
            "stopped, though the others still count on this node: {reason}; \
             start it again with the same folder to go on"
        )),
        End::Stopped => cli::note("stopped; start the node again with the same folder to go on"),
    }
    if args.json {
        cli::print_json(last);
    }
    Ok(())
}

fn write_final(dir: &Path, last: &Value) -> anyhow::Result<()> {
    let folder = dir.join("reports");
    let (path, written) = (folder.join("final.json"), folder.join("final.json.new"));
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&written, last.to_string()))
        .and_then(|()| std::fs::rename(&written, &path))
        .with_context(|| format!("{} cannot be written", path.display()))
}
