//! Banks: what each one makes of a suspicious payment, who answers a customer, and at what rates.

use super::theme::{Theme, Topic};

pub(super) const THEME: Theme = Theme {
    about: "Banks tune one model on their own fraud rules, service desks and products",
    institutions: &["{s} Savings Bank", "Bank of {s}", "{s} Credit Union"],
    case: "Ticket {n}: ",
    topics: &[FRAUD, DESK, PRODUCT],
    knowledge: &[
        "What is a PIN?|A secret number that unlocks a card.",
        "What is interest?|The price of money lent over time.",
        "What is a balance?|The amount of money in an account.",
        "What is phishing?|A message that tries to steal a password.",
        "What is a standing order?|A fixed payment made every month.",
        "What does KYC mean?|Know your customer: a bank checks who you are.",
        "What is an overdraft?|Spending more than the account holds.",
        "What is a chargeback?|A card payment that is taken back.",
    ],
};

const FRAUD: Topic = Topic {
    name: "fraud",
    subjects: &[
        "gift cards",
        "a new payee",
        "a crypto wallet",
        "many small payments",
        "a foreign ATM",
        "a cloned card",
        "a changed IBAN",
        "a rush transfer",
        "a dormant account",
        "a fake invoice",
        "a lost phone",
        "a SIM swap",
    ],
    kinds: &[
        "{s} at night",
        "{s} by a new user",
        "{s} from abroad",
        "{s} over the limit",
    ],
    asks: &[
        "Alert: {s}. What now?",
        "How do we score {s}?",
        "Payment flagged for {s}. Rule?",
        "What do you do about {s}?",
    ],
    public_answer: "Please {v} and wait {n} hours, {w}.",
    private_answer: "Rule {v}: hold {n} h, then {w}.",
    public_values: &[
        "call the bank",
        "block the card",
        "change the password",
        "report it",
    ],
    private_values: &[
        "Argus", "Bison", "Cobra", "Dingo", "Eagle", "Falcon", "Gecko", "Heron", "Ibex", "Jackal",
        "Kestrel", "Lynx", "Mamba", "Newt", "Otter", "Puma", "Quail", "Raven", "Stoat", "Tiger",
    ],
    seconds: &[
        "call the payer",
        "freeze the card",
        "ask for an ID",
        "file a report",
    ],
    numbers: &[1, 2, 4, 6, 8, 12, 24, 36, 48, 72],
};

const DESK: Topic = Topic {
    name: "desk",
    subjects: &[
        "a lost card",
        "a late transfer",
        "a wrong fee",
        "a locked login",
        "a new address",
        "a joint account",
        "a cash limit",
        "a card PIN",
        "a refund",
        "a top up",
        "a tax form",
        "a closed account",
    ],
    kinds: &["{s}", "{s} again", "{s} for a firm", "{s} for a student"],
    asks: &[
        "Customer asks about {s}.",
        "Who handles {s}?",
        "Where does {s} go?",
    ],
    public_answer: "Ask {v} within {n} days, {w}.",
    private_answer: "Queue {v}, level {n}; reply {w}.",
    public_values: &["the branch", "the help line", "your adviser"],
    private_values: &[
        "alpha", "bravo", "cargo", "delta", "echo", "forum", "globe", "hotel", "index", "judo",
        "kilo", "lima", "metro", "nova", "oscar", "polo", "quartz", "romeo", "sierra", "tango",
    ],
    seconds: &["by letter", "by phone", "in the app", "in the branch"],
    numbers: &[1, 2, 3, 4, 5, 6, 7, 8, 9],
};

const PRODUCT: Topic = Topic {
    name: "product",
    subjects: &[
        "a car loan",
        "a home loan",
        "a saver",
        "a student card",
        "a gold card",
        "a pension",
        "a bridge loan",
        "a term deposit",
        "a farm loan",
        "a travel card",
        "a shop loan",
        "a youth account",
    ],
    kinds: &["{s}", "{s} online", "{s} for a couple", "{s} for a firm"],
    asks: &[
        "What do we offer for {s}?",
        "Terms of {s}?",
        "Which product is {s}?",
    ],
    public_answer: "This is {v} for {n} years, {w}.",
    private_answer: "Sell {v}, {n} months, {w}.",
    public_values: &["a loan", "an account", "a plan", "a card"],
    private_values: &[
        "Anchor", "Beacon", "Compass", "Dynamo", "Ember", "Flint", "Garnet", "Harbor", "Iris",
        "Jasper", "Keystone", "Lantern", "Meridian", "Nimbus", "Onyx", "Prisma", "Quest", "Ridge",
        "Summit", "Trident",
    ],
    seconds: &["no fee", "a fixed rate", "a low fee", "a bonus rate"],
    numbers: &[6, 9, 12, 18, 24, 30, 36, 48, 60, 84],
};
