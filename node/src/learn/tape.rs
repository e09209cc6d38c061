//! A pass on the processor, recorded while it is made and run backwards for its gradient.
//!
//! An operation leaves behind what it needs to turn the gradient of its output into those of its inputs. On the way
//! back the first gradient of some rows is taken over as it is, further ones are added in place, and whatever an
//! operation held goes when it has been undone. What asks for no gradient is not recorded.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor};

use super::kernel::elementwise::add;

/// Rows of numbers on their way through a model.
#[derive(Debug, Clone)]
pub struct Rows {
    values: Arc<Vec<f32>>,
    width: usize,
    place: Option<Place>,
}

/// Where the gradient of some rows is gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(usize);

/// The operations of a pass, in their order.
#[derive(Debug, Default)]
pub struct Tape {
    steps: Vec<Step>,
    gradients: Gradients,
}

/// What has been gathered on the way back.
#[derive(Debug, Default)]
pub struct Gradients {
    rows: Vec<Option<Arc<Vec<f32>>>>,
    moving: GradStore,
}

struct Step {
    output: Place,
    back: Box<Back>,
}

/// Given the gradient of its output, gathers those of an operation's inputs.
type Back = dyn FnOnce(Arc<Vec<f32>>, &mut Gradients) -> Result<()>;

impl Rows {
    /// Rows of which no gradient is wanted.
    pub fn still(values: Vec<f32>, width: usize) -> Self {
        let (values, place) = (Arc::new(values), None);
        Self {
            values,
            width,
            place,
        }
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Where their gradient is gathered, if one is wanted.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// Their sum, in the memory of one of them where nobody else holds it.
    pub fn sum(self, other: Self) -> Arc<Vec<f32>> {
        sum(self.values, other.values)
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut step = f.debug_struct("Step");
        step.field("output", &self.output).finish_non_exhaustive()
    }
}

impl Deref for Rows {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl Tape {
    /// What an operation has computed. If a gradient of any input is wanted, `back` gathers them later.
    pub fn record(
        &mut self,
        values: impl Into<Arc<Vec<f32>>>,
        width: usize,
        wanted: bool,
        back: impl FnOnce(Arc<Vec<f32>>, &mut Gradients) -> Result<()> + 'static,
    ) -> Rows {
        let values = values.into();
        let place = wanted.then(|| {
            let (output, back) = (self.gradients.place(), Box::new(back));
            self.steps.push(Step { output, back });
            output
        });
        Rows {
            values,
            width,
            place,
        }
    }

    /// The same rows as if they had not been computed: their gradient stays where it is gathered.
    #[must_use]
    pub fn leaf(&mut self, rows: &Rows) -> Rows {
        let place = rows.place.map(|_| self.gradients.place());
        Rows {
            place,
            ..rows.clone()
        }
    }

    /// How much has been recorded.
    pub fn mark(&self) -> usize {
        self.steps.len()
    }

    /// Forgets what was recorded behind a mark.
    pub fn forget(&mut self, mark: usize) {
        self.steps.truncate(mark);
    }

    /// Goes back to a mark.
    pub fn back(&mut self, mark: usize) -> Result<()> {
        while self.steps.len() > mark {
            let Some(Step { output, back }) = self.steps.pop() else {
                break;
            };
            if let Some(gradient) = self.gradients.take(output) {
                back(gradient, &mut self.gradients)?;
            }
        }
        Ok(())
    }

    /// What has been gathered so far.
    pub fn gradients(&mut self) -> &mut Gradients {
        &mut self.gradients
    }

    /// The gradients of all variables, once all has been undone.
    pub fn finish(mut self) -> Result<GradStore> {
        self.back(0)?;
        Ok(self.gradients.moving)
    }
}

impl Gradients {
    fn place(&mut self) -> Place {
        self.rows.push(None);
        Place(self.rows.len() - 1)
    }

    /// What has been gathered of some rows, which is not kept.
    pub fn take(&mut self, of: Place) -> Option<Arc<Vec<f32>>> {
        self.rows[of.0].take()
    }

    /// Adds to the gradient of some rows, if one is wanted.
    pub fn add(&mut self, to: Option<Place>, values: impl Into<Arc<Vec<f32>>>) {
        let Some(Place(at)) = to else { return };
        let values = values.into();
        self.rows[at] = Some(match self.rows[at].take() {
            None => values,
            Some(old) => sum(old, values),
        });
    }

    /// The gradient of `len` numbers, zeros if there was none, to add to parts of it.
    pub fn part(&mut self, of: Place, len: usize) -> &mut [f32] {
        let gradient = self.rows[of.0].get_or_insert_with(|| Arc::new(vec![0.0; len]));
        Arc::<Vec<f32>>::make_mut(gradient)
    }

    /// Adds to the gradient of a variable.
    pub fn add_moving(&mut self, of: &Tensor, values: Vec<f32>) -> Result<()> {
        let mut gradient = Tensor::from_vec(values, of.shape(), &Device::Cpu)?;
        if let Some(old) = self.moving.get(of) {
            gradient = (old + gradient)?;
        }
        self.moving.insert(of, gradient);
        Ok(())
    }

    /// Adds what candle found.
    pub fn add_all(&mut self, found: GradStore) -> Result<()> {
        self.moving.extend(found)
    }
}

/// The sum in the memory of one, where nobody else holds it.
fn sum(mut a: Arc<Vec<f32>>, mut b: Arc<Vec<f32>>) -> Arc<Vec<f32>> {
    if Arc::get_mut(&mut a).is_none() {
        std::mem::swap(&mut a, &mut b);
    }
    add(Arc::<Vec<f32>>::make_mut(&mut a), &b);
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_summed_over_all_ways_and_leave_shared_memory_alone() {
        let mut tape = Tape::default();
        let x = Rows {
            place: Some(tape.gradients.place()),
            ..Rows::still(vec![1.0, 2.0], 2)
        };
        let before = tape.mark();
        let double = |tape: &mut Tape, x: &Rows| {
            let (to, y) = (x.place(), x.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
            tape.record(y, 2, true, move |dy, gradients| {
                gradients.add(to, dy.iter().map(|d| 2.0 * d).collect::<Vec<_>>());
                Ok(())
            })
        };
        let pass = |tape: &mut Tape, x: Rows, y: Rows| {
            let places = [x.place(), y.place()];
            tape.record(x.sum(y), 2, true, move |dy, gradients| {
                for place in places {
                    gradients.add(place, dy.clone());
                }
                Ok(())
            })
        };
        // y = x + 2 x, z = y + 2 y
        let twice = double(&mut tape, &x);
        let y = pass(&mut tape, x.clone(), twice);
        assert_eq!((&*x, &*y), (&[1.0, 2.0][..], &[3.0, 6.0][..]));
        let twice = double(&mut tape, &y);
        let z = pass(&mut tape, y.clone(), twice);
        assert_eq!((&*y, &*z), (&[3.0, 6.0][..], &[9.0, 18.0][..]));
        tape.gradients.add(z.place(), vec![1.0, -1.0]);
        tape.back(before).unwrap();
        let found = tape.gradients.take(x.place().unwrap()).unwrap();
        assert_eq!(*found, [9.0, -9.0]);
        // Nothing is kept of what asks for no gradient, nor of what is forgotten.
        let still = tape.record(vec![0.0], 1, false, |_, _| Ok(()));
        assert_eq!((still.place(), tape.mark()), (None, before));
        double(&mut tape, &x);
        tape.forget(before);
        assert_eq!(tape.mark(), before);
    }
}
