//! How a scenario's tables become rows: public ones for everybody, private ones for each member.
//!
//! Templates hold `{s}` (a subject), `{v}` (a value), `{w}` (a second value) and `{n}` (a number).

use serde_json::json;

use crate::learn::data::Chance;

/// The tables of one kind of institution.
#[derive(Debug)]
pub(super) struct Theme {
    /// One sentence: who and what.
    pub(super) about: &'static str,
    /// Templates of institutions' names, with `{s}` for a place.
    pub(super) institutions: &'static [&'static str],
    /// How an institution numbers its questions, with `{n}`; no two private prompts are alike.
    pub(super) case: &'static str,
    /// What rows are about.
    pub(super) topics: &'static [Topic],
    /// Sentences of general knowledge, `question|answer`.
    pub(super) knowledge: &'static [&'static str],
}

/// One kind of question with its answers.
#[derive(Debug)]
pub(super) struct Topic {
    /// Its name, the field `topic`.
    pub(super) name: &'static str,
    /// What is asked about.
    pub(super) subjects: &'static [&'static str],
    /// What narrows a subject, so that every member has its own.
    pub(super) kinds: &'static [&'static str],
    /// Ways to ask.
    pub(super) asks: &'static [&'static str],
    /// The answer as the public part words it.
    pub(super) public_answer: &'static str,
    /// The answer as institutions word it among themselves.
    pub(super) private_answer: &'static str,
    /// First values that the public part uses.
    pub(super) public_values: &'static [&'static str],
    /// First values that only institutions use, dealt among them.
    pub(super) private_values: &'static [&'static str],
    /// Second values.
    pub(super) seconds: &'static [&'static str],
    /// Numbers.
    pub(super) numbers: &'static [u32],
}

/// What is so about one subject.
struct Fact {
    topic: &'static Topic,
    subject: String,
    answer: String,
}

const STREAM_NAMES: u64 = 10;
const STREAM_FACTS: u64 = 11;
const STREAM_PUBLIC: u64 = 12;
const STREAM_MEMBER: u64 = 1000;

/// The numbers of an institution's questions.
const CASES: std::ops::Range<usize> = 1000..10_000;

/// How many facts of a topic a member has.
const FACTS: usize = 4;

const PLACES: &[&str] = &[
    "Aldbury",
    "Brenford",
    "Calder",
    "Dunmore",
    "Eastlake",
    "Fairhaven",
    "Glenside",
    "Harwick",
    "Ivydale",
    "Juniper",
    "Kingsmere",
    "Larkhill",
    "Millbrook",
    "Northgate",
    "Oakvale",
    "Penrose",
    "Quayside",
    "Ravenna",
    "Silverton",
    "Thornbury",
];

impl Theme {
    /// Names for `members` institutions, all different.
    pub(super) fn institutions(&self, seed: u64, members: usize) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for template in self.institutions {
            names.extend(PLACES.iter().map(|place| template.replace("{s}", place)));
        }
        Chance::new(seed, STREAM_NAMES).shuffle(&mut names);
        let whole = names.len();
        (0..members)
            .map(|member| match member / whole {
                0 => names[member].clone(),
                again => format!("{} {}", names[member % whole], again + 1),
            })
            .collect()
    }

    /// For each member `count` rows on its own facts.
    pub(super) fn private_rows(
        &'static self,
        seed: u64,
        members: usize,
        count: usize,
    ) -> Vec<Vec<String>> {
        let facts = self.deal_facts(seed, members);
        let rows = |(member, facts): (usize, Vec<Fact>)| {
            let mut chance = Chance::new(seed, STREAM_MEMBER + member as u64);
            let mut cases: Vec<usize> = CASES.collect();
            chance.shuffle(&mut cases);
            let row = |row: usize| {
                let case = cases[row % cases.len()].to_string();
                let fact = &facts[row % facts.len()];
                row_of(fact, &self.case.replace("{n}", &case), &mut chance)
            };
            (0..count).map(row).collect()
        };
        facts.into_iter().enumerate().map(rows).collect()
    }

    /// `count` rows that anyone may know: general knowledge, and the topics in their public words.
    pub(super) fn public_rows(&'static self, seed: u64, count: usize) -> Vec<String> {
        let mut chance = Chance::new(seed, STREAM_PUBLIC);
        (0..count)
            .map(|_| {
                if chance.below(8) == 0 {
                    let (ask, answer) = chance
                        .pick(self.knowledge)
                        .split_once('|')
                        .unwrap_or_default();
                    return line("general", ask, answer);
                }
                let topic = &self.topics[chance.below(self.topics.len())];
                let subject = topic.subject(chance.below(topic.width()));
                let answer = topic.answer(
                    topic.public_answer,
                    chance.pick(topic.public_values),
                    &mut chance,
                );
                let fact = Fact {
                    topic,
                    subject,
                    answer,
                };
                row_of(&fact, "", &mut chance)
            })
            .collect()
    }

    /// The facts of each member: of every topic some subjects, dealt in turn, so that no two
    /// members share one as long as there are enough.
    fn deal_facts(&'static self, seed: u64, members: usize) -> Vec<Vec<Fact>> {
        let mut chance = Chance::new(seed, STREAM_FACTS);
        let mut dealt: Vec<Vec<Fact>> = (0..members).map(|_| Vec::new()).collect();
        for topic in self.topics {
            let mut subjects: Vec<usize> = (0..topic.width()).collect();
            let mut values: Vec<usize> = (0..topic.private_values.len()).collect();
            chance.shuffle(&mut subjects);
            chance.shuffle(&mut values);
            for turn in 0..members * FACTS {
                let subject = topic.subject(subjects[turn % subjects.len()]);
                let value = topic.private_values[values[turn % values.len()]];
                let answer = topic.answer(topic.private_answer, value, &mut chance);
                dealt[turn % members].push(Fact {
                    topic,
                    subject,
                    answer,
                });
            }
        }
        dealt
    }
}

impl Topic {
    const fn width(&self) -> usize {
        self.subjects.len() * self.kinds.len()
    }

    fn subject(&self, index: usize) -> String {
        let (kind, subject) = (index / self.subjects.len(), index % self.subjects.len());
        self.kinds[kind].replace("{s}", self.subjects[subject])
    }

    fn answer(&self, template: &str, value: &str, chance: &mut Chance) -> String {
        let number = self.numbers[chance.below(self.numbers.len())];
        let second = chance.pick(self.seconds);
        template
            .replace("{v}", value)
            .replace("{w}", second)
            .replace("{n}", &number.to_string())
    }
}

fn row_of(fact: &Fact, case: &str, chance: &mut Chance) -> String {
    let ask = chance.pick(fact.topic.asks).replace("{s}", &fact.subject);
    line(fact.topic.name, &format!("{case}{ask}"), &fact.answer)
}

fn line(topic: &str, ask: &str, answer: &str) -> String {
    json!({ "prompt": format!("{ask}\n"), "completion": answer, "topic": topic }).to_string()
}
