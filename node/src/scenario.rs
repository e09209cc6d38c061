//! Three generated federations: hospitals, banks and universities with texts of their own.
//!
//! Each scenario has a public part, whose language and forms anyone may know and from which the
//! embedded base model was trained, and private facts, which differ between members. The rows that
//! measure come from all members, so that nobody can answer them alone. Everything is invented.

mod bank;
pub mod base;
mod campus;
mod clinic;
mod theme;

use std::fmt;
use std::str::FromStr;

use theme::Theme;

/// The rows that each member is given, before some are held out.
pub const MEMBER_ROWS: usize = 400;

/// Which kind of institution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scenario {
    /// Hospitals with their own formularies, triage rules and wards.
    Clinic,
    /// Banks with their own fraud rules, desks and products.
    Bank,
    /// Universities with their own courses, tutors and grading.
    Campus,
}

/// The private rows of every member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// For each member its rows, JSON objects with `prompt`, `completion` and `topic`.
    pub members: Vec<Vec<String>>,
    /// The institutions' names, one a member.
    pub names: Vec<String>,
    /// One sentence on what this is, saying that it is generated.
    pub about: String,
}

/// A word that names no scenario.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scenario {0:?} is none; choose clinic, bank or campus")]
pub struct UnknownScenario(pub String);

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Clinic, Self::Bank, Self::Campus];

    /// The word for it on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clinic => "clinic",
            Self::Bank => "bank",
            Self::Campus => "campus",
        }
    }

    /// The private rows of `members` institutions, decided by the seed.
    pub fn generate(self, seed: u64, members: usize) -> Generated {
        let theme = self.theme();
        let names = theme.institutions(seed, members);
        Generated {
            members: theme.private_rows(seed, members, MEMBER_ROWS),
            names,
            about: format!(
                "{} (generated: every name and fact is invented)",
                theme.about
            ),
        }
    }

    /// `count` rows of the public part, decided by the seed: what the base model learns.
    pub fn general(self, seed: u64, count: usize) -> Vec<String> {
        self.theme().public_rows(seed, count)
    }

    const fn theme(self) -> &'static Theme {
        match self {
            Self::Clinic => &clinic::THEME,
            Self::Bank => &bank::THEME,
            Self::Campus => &campus::THEME,
        }
    }
}

impl FromStr for Scenario {
    type Err = UnknownScenario;

    fn from_str(word: &str) -> Result<Self, UnknownScenario> {
        let found = Self::ALL
            .into_iter()
            .find(|scenario| scenario.name() == word);
        found.ok_or_else(|| UnknownScenario(word.to_owned()))
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn fields(line: &str) -> (String, String) {
        let row: Value = serde_json::from_str(line).expect("a JSON object");
        let text = |name: &str| row[name].as_str().expect("a string").to_owned();
        assert!(!text("topic").is_empty());
        (text("prompt"), text("completion"))
    }

    #[test]
    fn rows_are_plain_short_and_decided_by_the_seed() {
        for scenario in Scenario::ALL {
            let made = scenario.generate(7, 5);
            assert_eq!(made, scenario.generate(7, 5), "{scenario}");
            assert_ne!(made.members, scenario.generate(8, 5).members, "{scenario}");
            assert!(made.about.contains("generated"), "{}", made.about);
            let public = scenario.general(7, 500);
            assert_eq!((public.len(), made.members.len()), (500, 5));
            for line in public.iter().chain(made.members.iter().flatten()) {
                let (prompt, completion) = fields(line);
                let len = prompt.len() + completion.len();
                assert!(prompt.is_ascii() && completion.is_ascii(), "{line}");
                assert!(
                    !completion.is_empty() && len + 2 <= 128,
                    "{len} bytes: {line}"
                );
                assert!(
                    !line.contains(['{', '}', '~']) || line.matches(['{', '}', '~']).count() == 2,
                    "{line}"
                );
            }
        }
    }

    #[test]
    fn members_ask_about_different_things_and_the_public_part_about_none_of_them() {
        for scenario in Scenario::ALL {
            let made = scenario.generate(3, 5);
            assert_eq!(made.names.iter().collect::<BTreeSet<_>>().len(), 5);
            let answers = |rows: &[String]| {
                rows.iter()
                    .map(|line| fields(line).1)
                    .collect::<BTreeSet<_>>()
            };
            let public = answers(&scenario.general(3, 4000));
            let members: Vec<_> = made.members.iter().map(|rows| answers(rows)).collect();
            for (index, one) in members.iter().enumerate() {
                assert!(made.members[index].len() >= MEMBER_ROWS);
                let prompts: BTreeSet<_> = made.members[index]
                    .iter()
                    .map(|line| fields(line).0)
                    .collect();
                assert_eq!(
                    prompts.len(),
                    MEMBER_ROWS,
                    "{scenario}: a prompt held out was seen in training"
                );
                assert!(
                    one.is_disjoint(&public),
                    "{scenario}: a private answer is public"
                );
                for other in &members[index + 1..] {
                    let shared = one.intersection(other).count();
                    assert!(
                        shared * 4 <= one.len(),
                        "{scenario}: {shared} of {} shared",
                        one.len()
                    );
                }
            }
        }
    }

    #[test]
    fn many_members_are_served_and_unknown_words_refused() {
        let made = Scenario::Campus.generate(1, 60);
        assert_eq!(made.names.iter().collect::<BTreeSet<_>>().len(), 60);
        assert!(made.members.iter().all(|rows| rows.len() == MEMBER_ROWS));
        assert_eq!("bank".parse(), Ok(Scenario::Bank));
        let said = "banks"
            .parse::<Scenario>()
            .expect_err("refused")
            .to_string();
        assert!(said.contains("choose clinic, bank or campus"), "{said}");
    }
}
