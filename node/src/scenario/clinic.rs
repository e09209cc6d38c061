//! Hospitals: what each one gives, how it triages, and which ward takes whom.

use super::theme::{Theme, Topic};

pub(super) const THEME: Theme = Theme {
    about: "Hospitals tune one model on their own formularies, triage rules and wards",
    institutions: &["{s} General Hospital", "{s} Clinic", "St Anne {s}"],
    case: "Case {n}: ",
    topics: &[TREATMENT, TRIAGE, WARD],
    knowledge: &[
        "What does a fever mean?|The body is fighting an infection.",
        "How is blood pressure measured?|With a cuff on the upper arm, in mmHg.",
        "What is a normal pulse?|At rest from 60 to 100 beats a minute.",
        "Why wash hands?|Clean hands keep germs from the next patient.",
        "What does NPO mean?|Nothing by mouth, usually before surgery.",
        "What is a dose?|The amount of a drug taken at one time.",
        "Who writes a referral?|The doctor who sends the patient on.",
        "What is triage?|Deciding who must be seen first.",
    ],
};

const SUBJECTS: &[&str] = &[
    "croup",
    "gout",
    "asthma",
    "eczema",
    "sepsis",
    "angina",
    "anemia",
    "mumps",
    "sinusitis",
    "migraine",
    "colitis",
    "shingles",
    "vertigo",
    "cystitis",
    "psoriasis",
    "pneumonia",
];

const TREATMENT: Topic = Topic {
    name: "treatment",
    subjects: SUBJECTS,
    kinds: &["mild {s}", "severe {s}", "{s} in a child", "{s} in old age"],
    asks: &[
        "What do we give for {s}?",
        "Patient with {s}. Treatment?",
        "Which drug for {s}?",
        "How do you treat {s}?",
    ],
    public_answer: "For this we give {v}, {n} mg {w}.",
    private_answer: "Rx {v} {n} mg {w}; recheck the patient.",
    public_values: &[
        "aspirin",
        "ibuprofen",
        "insulin",
        "heparin",
        "morphine",
        "codeine",
    ],
    private_values: &[
        "amoxil", "bactrim", "cefalex", "dapsone", "enoxin", "flagyl", "gentacin", "hydralox",
        "imuran", "junivol", "keflex", "lasix", "metopril", "naproxen", "orapred", "pepcid",
        "quinidex", "ranexa", "septra", "timolol",
    ],
    seconds: &["by mouth", "by vein", "at night", "twice a day"],
    numbers: &[5, 10, 20, 25, 40, 50, 75, 80, 100, 150, 200, 250, 400, 500],
};

const TRIAGE: Topic = Topic {
    name: "triage",
    subjects: &[
        "chest pain",
        "a head injury",
        "a burn",
        "a rash",
        "short breath",
        "back pain",
        "a deep cut",
        "a bite",
        "fainting",
        "a swollen leg",
        "a high fever",
        "a stiff neck",
    ],
    kinds: &["{s}", "{s} at night", "{s} after a fall", "{s} in a child"],
    asks: &[
        "Triage for {s}?",
        "Patient comes with {s}. How urgent?",
        "Who sees {s} first?",
    ],
    public_answer: "Call {v} within {n} minutes, {w}.",
    private_answer: "Code {v}; seen in {n} min; {w} first.",
    public_values: &["a nurse", "a doctor", "the surgeon", "the ambulance"],
    private_values: &[
        "amber", "blue", "coral", "denim", "ebony", "fern", "gold", "hazel", "ivory", "jade",
        "khaki", "lilac", "mauve", "navy", "olive", "pearl", "ruby", "sand", "teal", "violet",
    ],
    seconds: &["an ECG", "a scan", "a blood test", "pain relief"],
    numbers: &[5, 10, 15, 20, 30, 45, 60, 90, 120],
};

const WARD: Topic = Topic {
    name: "ward",
    subjects: SUBJECTS,
    kinds: &[
        "{s} overnight",
        "{s} after surgery",
        "new {s}",
        "chronic {s}",
    ],
    asks: &[
        "Which ward takes {s}?",
        "Bed for {s}?",
        "Where do we admit {s}?",
    ],
    public_answer: "Ask {v} on floor {n}, {w}.",
    private_answer: "To ward {v}, ext {n}; {w} signs in.",
    public_values: &["the front desk", "the bed office", "admissions"],
    private_values: &[
        "Ash", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Gorse", "Holly", "Ilex", "Juniper",
        "Larch", "Maple", "Oak", "Pine", "Quince", "Rowan", "Spruce", "Thorn", "Willow", "Yew",
    ],
    seconds: &[
        "the registrar",
        "the matron",
        "the intern",
        "the consultant",
    ],
    numbers: &[1, 2, 3, 4, 5, 6, 7, 8, 9],
};
