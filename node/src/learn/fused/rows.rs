//! Operations on rows as they are: sums, and parts of them.

use std::ops::Range;

use crate::learn::tape::{Rows, Tape};

/// The sum, element by element.
pub fn add(tape: &mut Tape, x: Rows, y: Rows) -> Rows {
    let (width, places) = (x.width(), [x.place(), y.place()]);
    let wanted = places.iter().any(Option::is_some);
    tape.record(x.sum(y), width, wanted, move |dy, gradients| {
        gradients.add(places[0], dy.clone());
        gradients.add(places[1], dy);
        Ok(())
    })
}

/// The three equal parts of each row.
pub fn thirds(tape: &mut Tape, x: &Rows) -> [Rows; 3] {
    let width = x.width() / 3;
    [0, 1, 2].map(|third| part(tape, x, None, third * width..(third + 1) * width))
}

/// Some rows, whole.
pub fn select(tape: &mut Tape, x: &Rows, rows: Vec<usize>) -> Rows {
    let width = x.width();
    part(tape, x, Some(rows), 0..width)
}

/// Some columns of some rows, or of all.
fn part(tape: &mut Tape, x: &Rows, rows: Option<Vec<usize>>, columns: Range<usize>) -> Rows {
    let (len, wide, width) = (x.len(), x.width(), columns.len());
    let rows = rows.unwrap_or_else(|| (0..len / wide).collect());
    let from = columns.start;
    let at = move |row: &usize| row * wide + from..row * wide + from + width;
    let values: Vec<f32> = rows.iter().flat_map(|row| &x[at(row)]).copied().collect();
    let place = x.place();
    tape.record(values, width, place.is_some(), move |dy, gradients| {
        let Some(place) = place else { return Ok(()) };
        let all = gradients.part(place, len);
        for (row, dy) in rows.iter().zip(dy.chunks_exact(width)) {
            for (sum, dy) in all[at(row)].iter_mut().zip(dy) {
                *sum += dy;
            }
        }
        Ok(())
    })
}
