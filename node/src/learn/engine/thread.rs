//! What runs on the engine's thread: orders in their turn, training above evaluation.

use std::collections::VecDeque;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::time::Instant;

use conclave_crypto::ladder::Delta;
use conclave_protocol::floats::Floats;
use conclave_protocol::layout::Layout;
use conclave_protocol::names::{Factor, Height, Round};
use conclave_protocol::output::Order;
use tokio::sync::mpsc;

use super::EngineReport;
use crate::learn::data::Part;
use crate::learn::examples::Examples as _;
use crate::learn::peft::folder::{self, Base};
use crate::learn::steps::Run;
use crate::learn::trainer::{Subject, TrainError, Trainer};

/// One training order.
pub(super) struct Ordered {
    height: Height,
    round: Round,
    rounds: u32,
    factor: Factor,
    adapter: Floats,
    local_steps: u32,
    seed: [u8; 32],
}

/// An adapter to evaluate.
pub(super) struct Adopted {
    pub(super) height: Height,
    pub(super) round: Round,
    pub(super) adapter: Floats,
}

/// The thread's whole state.
pub(super) struct Thread {
    pub(super) trainer: Trainer,
    pub(super) layout: Layout,
    pub(super) examples: Arc<Part>,
    pub(super) held_out: Part,
    pub(super) adapters: Option<PathBuf>,
    pub(super) base: String,
    pub(super) orders: Receiver<Order>,
    pub(super) reports: mpsc::Sender<EngineReport>,
    pub(super) next: Option<Ordered>,
    pub(super) adopted: VecDeque<Adopted>,
    pub(super) gone: bool,
}

impl Thread {
    /// Runs until the handle is dropped.
    pub(super) fn live(mut self) {
        while !self.gone {
            self.look();
            if let Some(order) = self.next.take() {
                self.train(&order);
                self.trainer.give_back_memory();
            } else if let Some(adopted) = self.adopted.pop_front() {
                self.evaluate(&adopted);
                self.trainer.give_back_memory();
            } else {
                match self.orders.recv() {
                    Ok(order) => self.note(order),
                    Err(RecvError) => return,
                }
            }
        }
    }

    /// Takes in whatever has been ordered meanwhile.
    fn look(&mut self) {
        loop {
            match self.orders.try_recv() {
                Ok(order) => self.note(order),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }

    fn note(&mut self, order: Order) {
        match order {
            Order::Train {
                height,
                round,
                rounds,
                factor,
                adapter,
                digest: _,
                local_steps,
                seed,
            } => {
                self.next = Some(Ordered {
                    height,
                    round,
                    rounds,
                    factor,
                    adapter,
                    local_steps,
                    seed,
                });
            }
            Order::Cancel { height } => {
                self.next.take_if(|order| order.height == height);
            }
            Order::Adopt {
                height,
                round,
                adapter,
                digest: _,
            } => {
                let adopted = Adopted {
                    height,
                    round,
                    adapter,
                };
                if let Err(reason) = self.keep(&adopted) {
                    self.tell(EngineReport::Warning { reason });
                }
                self.adopted.push_back(adopted);
            }
        }
    }

    fn train(&mut self, order: &Ordered) {
        let height = order.height;
        match self.round(order) {
            Ok((delta, loss)) => self.tell(EngineReport::Trained {
                height,
                delta,
                loss,
            }),
            Err(TrainOutcome::Replaced) => {}
            Err(TrainOutcome::Failed(reason)) => self.tell(EngineReport::Failed { height, reason }),
        }
    }

    fn round(&mut self, order: &Ordered) -> Result<(Delta, f64), TrainOutcome> {
        if order.adapter.len() != self.layout.len {
            let (found, wanted) = (order.adapter.len(), self.layout.len);
            let reason =
                format!("the ordered adapter has {found} coordinates, this model's has {wanted}");
            return Err(TrainOutcome::Failed(reason));
        }
        let steps = u64::from(order.local_steps);
        let first = u64::from(order.round.0.saturating_sub(1)) * steps;
        let examples = Arc::clone(&self.examples);
        let mut losses = Vec::new();
        let run = Run {
            examples: &*examples,
            factor: order.factor,
            steps: first..first + steps,
            total: (u64::from(order.rounds) * steps).max(first + steps),
            seed: order.seed,
        };
        let mut watched = Watched {
            orders: &mut self.orders,
            noted: Vec::new(),
            gone: false,
        };
        let reports = &self.reports;
        let outcome = self.trainer.run(&order.adapter, &run, |step| {
            losses.push(step.loss);
            #[expect(clippy::cast_precision_loss, reason = "token counts are small")]
            let progress = EngineReport::Progress {
                height: order.height,
                done: u32::try_from(losses.len()).unwrap_or(u32::MAX),
                of: order.local_steps,
                loss: step.loss,
                tokens_per_second: step.tokens as f64 / step.time.as_secs_f64(),
            };
            // A full queue loses progress, nothing else.
            let _full = reports.try_send(progress);
            watched.stop(order.height)
        });
        self.gone |= watched.gone;
        let noted = watched.noted;
        for order in noted {
            self.note(order);
        }
        let mut change = match outcome {
            Err(TrainError::Stopped) => return Err(TrainOutcome::Replaced),
            Err(error) => return Err(TrainOutcome::Failed(error.to_string())),
            Ok(moved) => moved,
        };
        let start = self.layout.gather(order.factor, &order.adapter);
        for (end, start) in change.iter_mut().zip(start) {
            *end -= start;
        }
        let delta = Delta::new(change).map_err(|e| TrainOutcome::Failed(e.to_string()))?;
        #[expect(clippy::cast_precision_loss, reason = "step counts are small")]
        let loss = losses.iter().sum::<f64>() / losses.len() as f64;
        Ok((delta, loss))
    }

    fn evaluate(&mut self, adopted: &Adopted) {
        if self.held_out.count() == 0 || adopted.adapter.len() != self.layout.len {
            return;
        }
        let start = Instant::now();
        match self.trainer.evaluate(&adopted.adapter, &self.held_out) {
            Ok(Some(measured)) => {
                tracing::debug!(round = adopted.round.0, loss = measured.loss, took = ?start.elapsed(), "evaluated");
                self.tell(EngineReport::Evaluated {
                    height: adopted.height,
                    round: adopted.round,
                    loss: measured.loss,
                    accuracy: measured.accuracy,
                });
            }
            Ok(None) => {}
            Err(error) => self.tell(EngineReport::Warning {
                reason: format!("the held-out rows could not be scored: {error}"),
            }),
        }
    }

    /// Writes `adapters/<round>/` by rename.
    fn keep(&self, adopted: &Adopted) -> Result<(), String> {
        let (Some(folder), Subject::Adapter(adapter)) = (&self.adapters, self.trainer.subject())
        else {
            return Ok(());
        };
        let place = folder.join(adopted.round.0.to_string());
        let fault = |path: &Path, e: std::io::Error| {
            format!("{}: {e}; the adapter was not kept", path.display())
        };
        if place.exists() {
            return Ok(());
        }
        let partial = folder.join(format!(".{}.partial", adopted.round.0));
        let _absent = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial).map_err(|e| fault(&partial, e))?;
        if adopted.adapter.len() != self.layout.len {
            return Err("the adopted adapter belongs to another model; it was not kept".into());
        }
        let base = Base {
            name: &self.base,
            identity: self.trainer.model().identity(),
        };
        folder::write(&partial, adapter, &adopted.adapter, base).map_err(|e| e.to_string())?;
        fs::rename(&partial, &place).map_err(|e| fault(&place, e))
    }

    fn tell(&mut self, report: EngineReport) {
        if self.reports.blocking_send(report).is_err() {
            self.gone = true;
        }
    }
}

/// Why a round gave no delta.
enum TrainOutcome {
    Replaced,
    Failed(String),
}

/// The orders that arrive while a round trains.
struct Watched<'a> {
    orders: &'a mut Receiver<Order>,
    noted: Vec<Order>,
    gone: bool,
}

impl Watched<'_> {
    fn stop(&mut self, height: Height) -> ControlFlow<()> {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Cancel { height: which }) if which == height => {
                    return ControlFlow::Break(());
                }
                Ok(order @ Order::Train { .. }) => {
                    self.noted.push(order);
                    return ControlFlow::Break(());
                }
                Ok(order) => self.noted.push(order),
                Err(TryRecvError::Empty) => return ControlFlow::Continue(()),
                Err(TryRecvError::Disconnected) => {
                    self.gone = true;
                    return ControlFlow::Break(());
                }
            }
        }
    }
}
