//! Any text as a ticket, and any contents under a checksum that fits.
#![no_main]

use conclave::ticket::{Ticket, word};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _parsed = Ticket::parse(&String::from_utf8_lossy(bytes));
    if let Ok(ticket) = Ticket::parse(&word(bytes)) {
        let again = Ticket::parse(&ticket.to_text()).expect("what was read can be written");
        assert_eq!(again, ticket);
    }
});
