//! One thread a node that asks it for its status, again and again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::view::View;
use crate::local;

/// How often a node is asked.
const USUALLY: Duration = Duration::from_millis(100);

/// How often while a kill is near.
const CLOSELY: Duration = Duration::from_millis(20);

/// The askers. Dropping them ends their threads.
#[derive(Debug)]
pub struct Pollers {
    answers: Receiver<(usize, View)>,
    pace: Arc<Pace>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Pace {
    interval_ms: AtomicU64,
    stopped: AtomicBool,
}

impl Pollers {
    /// Begins to ask the nodes of these folders.
    pub fn start(folders: &[PathBuf]) -> Self {
        let (sender, answers) = sync_channel(64);
        let pace = Arc::new(Pace {
            interval_ms: AtomicU64::new(millis(USUALLY)),
            stopped: AtomicBool::new(false),
        });
        let ask = |(node, folder): (usize, &PathBuf)| {
            let (folder, sender, pace) = (folder.clone(), sender.clone(), Arc::clone(&pace));
            std::thread::spawn(move || pace.ask(node, &folder, &sender))
        };
        let threads = folders.iter().enumerate().map(ask).collect();
        Self {
            answers,
            pace,
            threads,
        }
    }

    /// The next answer within `patience`: which node, and what it says.
    pub fn next(&self, patience: Duration) -> Option<(usize, View)> {
        self.answers.recv_timeout(patience).ok()
    }

    /// Whether to ask closely or as usual.
    pub fn watch_closely(&self, closely: bool) {
        let interval = if closely { CLOSELY } else { USUALLY };
        self.pace
            .interval_ms
            .store(millis(interval), Ordering::Relaxed);
    }
}

impl Pace {
    fn ask(&self, node: usize, folder: &std::path::Path, answers: &SyncSender<(usize, View)>) {
        while !self.stopped.load(Ordering::Relaxed) {
            if let Ok(view) = local::status(folder)
                && answers.send((node, view)).is_err()
            {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(
                self.interval_ms.load(Ordering::Relaxed),
            ));
        }
    }
}

impl Drop for Pollers {
    fn drop(&mut self) {
        self.pace.stopped.store(true, Ordering::Relaxed);
        // A sender may wait for room: an abandoned channel lets it go.
        self.answers = sync_channel(0).1;
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            let _its_panic_was_printed = thread.join();
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).expect("a short span")
}
