//! Universities: which course covers what, who tutors it, and how its work is graded.

use super::theme::{Theme, Topic};

pub(super) const THEME: Theme = Theme {
    about: "Universities tune one model on their own courses, tutors and grading",
    institutions: &["University of {s}", "{s} College", "{s} Institute"],
    case: "Query {n}: ",
    topics: &[COURSE, TUTOR, GRADING],
    knowledge: &[
        "What is an essay?|A text that argues for one claim.",
        "What is a lecture?|A talk that teaches a class.",
        "What is a theorem?|A statement that has been proved.",
        "What is a deadline?|The last time to hand in work.",
        "What is plagiarism?|Using another's words as your own.",
        "What is a seminar?|A small class that discusses a topic.",
        "What is a credit?|A measure of the work of a course.",
        "What is a thesis?|A long text at the end of a degree.",
    ],
};

const SUBJECTS: &[&str] = &[
    "matrices",
    "integrals",
    "genetics",
    "ethics",
    "poetry",
    "optics",
    "markets",
    "grammar",
    "proofs",
    "enzymes",
    "treaties",
    "algorithms",
    "statistics",
    "acids",
    "empires",
    "perception",
];

const COURSE: Topic = Topic {
    name: "course",
    subjects: SUBJECTS,
    kinds: &["basic {s}", "applied {s}", "advanced {s}", "{s} in history"],
    asks: &[
        "Which course covers {s}?",
        "I want to learn {s}.",
        "Where is {s} taught?",
        "Course on {s}?",
    ],
    public_answer: "Read about it in {v}, chapter {n}, {w}.",
    private_answer: "Take {v} {n}, taught {w}.",
    public_values: &["the handbook", "the reader", "the textbook", "the notes"],
    private_values: &[
        "Abacus", "Biome", "Cipher", "Delphi", "Euclid", "Fresnel", "Galileo", "Hypatia", "Isaac",
        "Joule", "Kepler", "Logos", "Minerva", "Newton", "Orion", "Plato", "Quanta", "Riemann",
        "Socrates", "Turing",
    ],
    seconds: &["on Monday", "on Tuesday", "on Thursday", "on Friday"],
    numbers: &[101, 110, 120, 201, 210, 220, 301, 310, 320, 401],
};

const TUTOR: Topic = Topic {
    name: "tutor",
    subjects: SUBJECTS,
    kinds: &[
        "homework on {s}",
        "an exam in {s}",
        "a project on {s}",
        "a talk on {s}",
    ],
    asks: &[
        "Who helps with {s}?",
        "I am stuck with {s}.",
        "Tutor for {s}?",
    ],
    public_answer: "Ask {v} for {n} minutes, {w}.",
    private_answer: "See {v}, room {n}, {w}.",
    public_values: &["a friend", "a teacher", "the library", "a tutor"],
    private_values: &[
        "Dr Adair", "Dr Boyle", "Dr Crane", "Dr Doyle", "Dr Ellis", "Dr Frost", "Dr Grant",
        "Dr Hobbs", "Dr Innes", "Dr Joyce", "Dr Kerr", "Dr Lowe", "Dr Moss", "Dr Nash", "Dr Owens",
        "Dr Price", "Dr Quinn", "Dr Reid", "Dr Sharp", "Dr Tully",
    ],
    seconds: &["at nine", "at noon", "at two", "at four"],
    numbers: &[
        12, 17, 21, 28, 33, 39, 44, 46, 51, 58, 62, 67, 73, 79, 84, 95,
    ],
};

const GRADING: Topic = Topic {
    name: "grading",
    subjects: &[
        "a late essay",
        "a lab report",
        "a group task",
        "a missed quiz",
        "an oral exam",
        "a short proof",
        "a poster",
        "a code task",
        "a book review",
        "a field trip",
        "a first draft",
        "a case study",
    ],
    kinds: &[
        "{s}",
        "{s} in year one",
        "{s} in year two",
        "{s} at the end",
    ],
    asks: &[
        "How is {s} graded?",
        "Marks for {s}?",
        "What counts for {s}?",
    ],
    public_answer: "It counts as {v}, up to {n} points, {w}.",
    private_answer: "Scale {v}: {n} points, {w}.",
    public_values: &["a test", "a pass", "an exercise"],
    private_values: &[
        "amber", "basil", "cedar", "dill", "ebony", "fennel", "ginger", "hazel", "indigo",
        "jasmine", "kelp", "laurel", "mint", "nettle", "olive", "pepper", "quince", "rose",
        "saffron", "thyme",
    ],
    seconds: &["no resit", "one resit", "peer review", "a viva"],
    numbers: &[5, 8, 10, 12, 15, 20, 25, 30, 40, 50],
};
