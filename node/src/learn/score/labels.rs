//! How often the right label was chosen, in all and for each label.

use std::collections::BTreeMap;

/// Counts of right and wrong choices, to which choices are added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    classes: BTreeMap<String, Class>,
}

/// One label's counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Class {
    /// Rows that have this label.
    pub rows: u64,
    /// Rows for which it was chosen.
    pub chosen: u64,
    /// Rows that have it and for which it was chosen.
    pub right: u64,
}

impl Class {
    /// The harmonic mean of precision and recall; 0 where none is right.
    pub fn f1(&self) -> f64 {
        if self.right == 0 {
            return 0.0;
        }
        share(2 * self.right, self.rows + self.chosen)
    }
}

impl Labels {
    /// Adds one row: what it has, and what was chosen.
    pub fn add(&mut self, has: &str, chosen: &str) {
        let right = u64::from(has == chosen);
        let class = self.classes.entry(has.to_owned()).or_default();
        class.rows += 1;
        class.right += right;
        self.classes.entry(chosen.to_owned()).or_default().chosen += 1;
    }

    /// The share of rows with the right label.
    pub fn accuracy(&self) -> f64 {
        let sum = |count: fn(&Class) -> u64| self.classes.values().map(count).sum::<u64>();
        share(sum(|class| class.right), sum(|class| class.rows))
    }

    /// The mean of the labels' F1, each counting alike.
    pub fn macro_f1(&self) -> f64 {
        let sum: f64 = self.classes.values().map(Class::f1).sum();
        #[expect(clippy::cast_precision_loss, reason = "labels are few")]
        let count = self.classes.len().max(1) as f64;
        sum / count
    }

    /// The labels in their order.
    pub fn classes(&self) -> impl Iterator<Item = (&str, &Class)> {
        self.classes
            .iter()
            .map(|(label, class)| (label.as_str(), class))
    }
}

#[expect(clippy::cast_precision_loss, reason = "row counts are far below 2^53")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_and_recall_by_hand() {
        // a: 3 rows, 2 right, chosen 3 times: F1 = 4/6. b: 2 rows, 1 right, chosen 2 times: 2/4. c: never right.
        let mut labels = Labels::default();
        for (has, chosen) in [
            ("a", "a"),
            ("a", "a"),
            ("a", "b"),
            ("b", "b"),
            ("b", "a"),
            ("c", "d"),
        ] {
            labels.add(has, chosen);
        }
        assert!((labels.accuracy() - 0.5).abs() < 1e-12);
        let f1: Vec<_> = labels
            .classes()
            .map(|(label, class)| (label, class.f1()))
            .collect();
        for ((label, f1), expected) in f1.iter().zip([2.0 / 3.0, 0.5, 0.0, 0.0]) {
            assert!((f1 - expected).abs() < 1e-12, "{label}: {f1}");
        }
        assert!((labels.macro_f1() - (2.0 / 3.0 + 0.5) / 4.0).abs() < 1e-12);
        assert!(Labels::default().accuracy().abs() < 1e-12);
    }
}
