//! What is simulated: the flags as values, what they exclude, and the command that runs the same again.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::str::FromStr;

use conclave_crypto::fraction::Fraction;
use conclave_protocol::charter::{MEMBERS_MAX, SURVIVORS_MIN};
use conclave_protocol::shard;
use conclave_protocol::sim::{Climate, Latency, Terms};

/// A simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) members: u32,
    pub(super) rounds: u32,
    pub(super) churn: Fraction,
    pub(super) loss: Fraction,
    pub(super) latency: Distance,
    pub(super) partition: Fraction,
    pub(super) broken_links: Fraction,
    pub(super) byzantine: Fraction,
    pub(super) seed: u64,
}

/// How far the members are from each other, as the flag says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Distance {
    Wan,
    Lan,
    Fixed(u64),
}

/// The longest fixed latency: the timers of a simulated federation are made for less.
const LATENCY_MAX_MS: u64 = 500;

/// The most rounds of a simulation.
const ROUNDS_MAX: u32 = 10_000;

impl FromStr for Distance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix("ms").unwrap_or(text).parse();
        match (text, number) {
            ("wan", _) => Ok(Self::Wan),
            ("lan", _) => Ok(Self::Lan),
            (_, Ok(ms)) if ms <= LATENCY_MAX_MS => Ok(Self::Fixed(ms)),
            _ => Err(format!(
                "wan, lan, or a number of milliseconds up to {LATENCY_MAX_MS}"
            )),
        }
    }
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wan => write!(f, "wan"),
            Self::Lan => write!(f, "lan"),
            Self::Fixed(ms) => write!(f, "{ms}"),
        }
    }
}

/// A probability as a flag says it: an exact decimal from 0 to 1.
pub(super) fn probability(text: &str) -> Result<Fraction, String> {
    let fraction: Fraction = text
        .parse()
        .map_err(|_| "a probability is a decimal number from 0 to 1 such as 0.1".to_owned())?;
    if fraction.numerator() > fraction.denominator() {
        return Err("a probability is at most 1".to_owned());
    }
    Ok(fraction)
}

/// Whether a file can be written there, before anything is done.
pub(super) fn writable(path: &Path) -> Result<(), String> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if path.is_dir() {
        return Err(format!(
            "--plot {}: that is a folder; name a file in it",
            path.display()
        ));
    }
    if folder.is_some_and(|folder| !folder.is_dir()) {
        return Err(format!(
            "--plot {}: its folder does not exist; make it first",
            path.display()
        ));
    }
    // What stands there is not touched, and what is made for the trial does not stay.
    let fresh = !path.exists();
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|_| if fresh { fs::remove_file(path) } else { Ok(()) })
        .map_err(|error| format!("--plot {}: {error}; name another file", path.display()))
}

impl Plan {
    /// Flags that parse but cannot be meant.
    pub(super) fn check(&self) -> Result<(), String> {
        let n = self.members;
        if !(SURVIVORS_MIN..=MEMBERS_MAX).contains(&n) {
            return Err(format!(
                "--members {n}: a federation has {SURVIVORS_MIN} to {MEMBERS_MAX} members"
            ));
        }
        if !(1..=ROUNDS_MAX).contains(&self.rounds) {
            return Err(format!(
                "--rounds {}: a simulation has 1 to {ROUNDS_MAX} rounds",
                self.rounds
            ));
        }
        if self.loss.numerator() >= self.loss.denominator() {
            return Err("--loss 1: where every message is lost nobody meets; say less".to_owned());
        }
        let (hostile, most) = (self.hostile(), (self.size() - 1) / 3);
        if hostile > most {
            return Err(format!(
                "--byzantine {}: {hostile} of {n} members would be hostile; less than a third may be, that is {most}",
                decimal(&self.byzantine)
            ));
        }
        self.check_quorum()
    }

    /// The living honest must be a quorum on average: a member is down for churn / 2 of the time.
    fn check_quorum(&self) -> Result<(), String> {
        let quorum = u64::from(self.quorum());
        let n = u64::from(self.members) - u64::try_from(self.hostile()).unwrap_or(0);
        let (top, bottom) = (self.churn.numerator(), self.churn.denominator());
        if n * (2 * bottom - top) >= 2 * bottom * quorum {
            return Ok(());
        }
        // n · (1 − P/2) ≥ q  ⇔  P ≤ 2 · (n − q) / n
        let most = 200 * (n - quorum) / n;
        let way_out = if most == 0 && n < u64::from(self.members) {
            format!(
                "the {n} honest members cannot do without any; lower --byzantine or leave --churn away"
            )
        } else if most == 0 {
            format!("{n} members cannot do without any; --members 4 takes a churn up to 0.5")
        } else {
            format!("the most that works is --churn {}", hundredths(most))
        };
        Err(format!(
            "--churn {}: on average fewer than the {quorum} of {} members that decide would be up{}; {way_out}",
            decimal(&self.churn),
            self.members,
            if n < u64::from(self.members) {
                " and honest"
            } else {
                ""
            },
        ))
    }

    /// How many of the members decide.
    pub(super) const fn quorum(&self) -> u32 {
        2 * self.members / 3 + 1
    }

    /// How many members are hostile.
    pub(super) fn hostile(&self) -> usize {
        usize::try_from(self.byzantine.floor_of(self.members.into())).unwrap_or(usize::MAX)
    }

    pub(super) fn size(&self) -> usize {
        usize::try_from(self.members).unwrap_or(usize::MAX)
    }

    pub(super) fn terms(&self) -> Terms {
        let mut terms = Terms::new(self.seed, self.size());
        terms.rounds = self.rounds;
        // Large federations move their vectors in shards, as those of real adapters are.
        if self.size() >= shard::MEMBERS_MIN {
            terms.inline_limit = 1;
        }
        terms
    }

    pub(super) fn climate(&self) -> Climate {
        Climate {
            churn: self.churn,
            loss: self.loss,
            partition: self.partition,
            breaks: self.broken_links,
            hostile: self.hostile(),
            latency: match self.latency {
                Distance::Wan => Latency::Wan,
                Distance::Lan => Latency::LAN,
                Distance::Fixed(ms) => Latency::Within(ms, ms),
            },
        }
    }

    /// The command that runs the same again.
    pub(super) fn command(&self) -> String {
        let mut words = vec![format!(
            "conclave simulate --members {} --rounds {}",
            self.members, self.rounds
        )];
        for (flag, value) in [
            ("churn", &self.churn),
            ("loss", &self.loss),
            ("partition", &self.partition),
            ("broken-links", &self.broken_links),
            ("byzantine", &self.byzantine),
        ] {
            if !value.is_zero() {
                words.push(format!("--{flag} {}", decimal(value)));
            }
        }
        words.push(format!("--latency {} --seed {}", self.latency, self.seed));
        words.join(" ")
    }
}

/// An exact decimal in its shortest form.
pub(super) fn decimal(fraction: &Fraction) -> String {
    let (top, bottom) = (fraction.numerator(), fraction.denominator());
    let places = usize::try_from(bottom.ilog10()).unwrap_or(0);
    if places == 0 {
        return top.to_string();
    }
    format!("{}.{:0places$}", top / bottom, top % bottom)
}

fn hundredths(number: u64) -> String {
    format!("{}.{:02}", number / 100, number % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(members: u32, churn: &str) -> Plan {
        Plan {
            members,
            rounds: 3,
            churn: probability(churn).expect("a probability"),
            loss: probability("0.05").expect("a probability"),
            latency: Distance::Fixed(50),
            partition: probability("0").expect("a probability"),
            broken_links: probability("0").expect("a probability"),
            byzantine: probability("0").expect("a probability"),
            seed: 9,
        }
    }

    #[test]
    fn the_churn_that_is_named_works_and_the_next_does_not() {
        for members in 4..=200 {
            let refusal = plan(members, "1").check().expect_err("too much");
            let most = refusal.rsplit(' ').next().expect("a word");
            assert_eq!(plan(members, most).check(), Ok(()), "{refusal}");
            let more = most.parse::<Fraction>().expect("a number");
            let more = more.floor_of(100) + 1;
            assert!(
                plan(members, &hundredths(more)).check().is_err(),
                "{refusal}"
            );
        }
        let refusal = plan(3, "0.01").check().expect_err("three need all three");
        assert!(refusal.contains("--members 4"), "{refusal}");
        assert_eq!(plan(3, "0").check(), Ok(()));
        assert_eq!(plan(4, "0.5").check(), Ok(()));
    }

    #[test]
    fn eight_members_and_more_sum_in_shards() {
        for (members, sharded) in [(7, false), (8, true), (200, true)] {
            assert_eq!(plan(members, "0").terms().sharded(), sharded, "{members}");
        }
    }

    #[test]
    fn fewer_than_a_third_may_be_hostile_and_the_honest_decide() {
        let with = |members, churn, byzantine| {
            let byzantine = probability(byzantine).expect("a probability");
            Plan {
                byzantine,
                ..plan(members, churn)
            }
        };
        assert_eq!(with(10, "0", "0.3").check(), Ok(()));
        assert_eq!(with(10, "0.25", "0.2").check(), Ok(()));
        assert_eq!(
            with(4, "0.5", "0.2").check(),
            Ok(()),
            "rounded down to none"
        );
        let refusal = with(10, "0", "0.4").check().expect_err("four of ten");
        assert!(refusal.contains("--byzantine 0.4: 4 of 10"), "{refusal}");
        let refusal = with(10, "0.4", "0.2").check().expect_err("too few honest");
        assert!(refusal.ends_with("--churn 0.25"), "{refusal}");
        let refusal = with(10, "0.1", "0.3")
            .check()
            .expect_err("all seven are needed");
        assert!(refusal.contains("lower --byzantine"), "{refusal}");
    }

    #[test]
    fn the_command_runs_the_same_again() {
        assert_eq!(
            plan(7, "0.100").command(),
            "conclave simulate --members 7 --rounds 3 --churn 0.1 --loss 0.05 --latency 50 --seed 9"
        );
        for text in ["0", "1", "0.5", "0.001", "0.25", "1.0"] {
            let fraction = probability(text).expect("a probability");
            assert_eq!(probability(&decimal(&fraction)), Ok(fraction), "{text}");
        }
    }

    #[test]
    fn what_is_no_probability_or_distance_is_refused() {
        for text in ["1.1", "2", "-0.1", "x", "", ".5", "1e-3", "NaN"] {
            assert!(probability(text).is_err(), "{text}");
        }
        for text in ["", "far", "501", "-1", "1.5"] {
            assert!(text.parse::<Distance>().is_err(), "{text}");
        }
        assert_eq!("80ms".parse(), Ok(Distance::Fixed(80)));
        assert_eq!("0".parse(), Ok(Distance::Fixed(0)));
    }
}
