//! Logs: `tracing` to stderr, as text or as JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A log filter that does not parse.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log (CONCLAVE_LOG) {filter:?} is no filter ({reason}); try error, warn, info, debug or conclave=debug"
)]
pub struct FilterError {
    filter: String,
    reason: String,
}

/// Of whom nothing is logged unless the filter names it: directives of a filter.
pub type Quiet = &'static [&'static str];

/// Gossip repeats itself on purpose; that it noticed is nobody's concern.
pub const NODE: Quiet = &["libp2p_gossipsub=error"];

/// In a simulation members contradict themselves on purpose; what comes of it is told by the simulation.
pub const SIMULATION: Quiet = &[
    "arc_malachitebft_core_consensus=off",
    "arc_malachitebft_core_driver=off",
    "arc_malachitebft_core_votekeeper=off",
];

/// Starts logging for the whole process; a second start changes nothing.
pub fn start(filter: &str, format: Format, quiet: Quiet) -> Result<(), FilterError> {
    let parsed = parse(filter, quiet)?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let _already = match format {
        Format::Text => logs.try_init(),
        Format::Json => logs.json().try_init(),
    };
    Ok(())
}

fn parse(filter: &str, quiet: Quiet) -> Result<EnvFilter, FilterError> {
    let quieted = format!("{},{filter}", quiet.join(","));
    EnvFilter::try_new(quieted).map_err(|error| FilterError {
        filter: filter.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Heard {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one thread").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged of a warning of ours and one of the consensus engine.
    fn heard(filter: &str, quiet: Quiet) -> String {
        let heard = Heard::default();
        let writer = heard.clone();
        let logs = tracing_subscriber::fmt()
            .with_env_filter(parse(filter, quiet).expect("a filter"))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(logs, || {
            tracing::warn!("ours");
            tracing::warn!(target: "arc_malachitebft_core_driver::proposal_keeper", "theirs");
        });
        let bytes = heard.0.lock().expect("one thread").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_simulation_logs_our_warnings_and_those_of_the_engine_only_if_it_is_named() {
        let both = |text: &str| (text.contains("ours"), text.contains("theirs"));
        assert_eq!(both(&heard("warn", NODE)), (true, true));
        assert_eq!(both(&heard("warn", SIMULATION)), (true, false));
        let named = "warn,arc_malachitebft_core_driver=warn";
        assert_eq!(both(&heard(named, SIMULATION)), (true, true));
        assert!(parse("conclave=loudly", SIMULATION).is_err());
    }
}
