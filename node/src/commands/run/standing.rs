//! As whom a node starts: a founder by the charter, a newcomer by its ticket, a member by its ledger.

use std::path::Path;

use anyhow::{Context as _, bail};
use conclave_crypto::sign::{IdentityKey, PublicKey};
use conclave_protocol::charter::Charter;
use conclave_protocol::ledger::Ledger;
use conclave_protocol::message::Invite;
use conclave_protocol::output::{Stored, Table};

use crate::config::NodeConfig;
use crate::keys;
use crate::ticket::{self, Ticket};

/// The name of this identity, and the invitation by which it enters if it is no founder, or why there is none.
pub(super) fn standing(
    charter: &Charter,
    identity: &IdentityKey,
    config: &NodeConfig,
    dir: &Path,
) -> (String, anyhow::Result<Option<Invite>>) {
    let key = identity.public();
    if let Some(founder) = charter.members.iter().find(|founder| founder.key == key) {
        return (founder.name.clone(), Ok(None));
    }
    let name = config.name.clone().unwrap_or_else(|| key.short());
    (name, invitation(charter, &key, dir).map(Some))
}

/// The invitation of the ticket that stands in the folder.
fn invitation(charter: &Charter, key: &PublicKey, dir: &Path) -> anyhow::Result<Invite> {
    let place = dir.join(ticket::FILE);
    let ticket = Ticket::open(dir).with_context(|| place.display().to_string())?;
    let Some(ticket) = ticket else {
        bail!(
            "the key {key} in {} is no founder of the charter {:?}: ask a member for a ticket (`conclave invite`) \
             and enter with `conclave join`",
            dir.join(keys::FILE).display(),
            charter.federation.name
        );
    };
    if ticket.charter.digest() != charter.digest() {
        bail!(
            "{} is a ticket to another federation than that of charter.toml: `conclave join` in a folder of its own",
            place.display()
        );
    }
    if ticket::has_expired(&ticket.invite, ticket::now_ms()) {
        bail!(
            "the invitation in {} has expired: ask for a new ticket and `conclave join` again",
            place.display()
        );
    }
    Ok(ticket.invite)
}

/// Whether the ledger of an opened folder names this key as a member's, past or present.
pub(super) fn is_member(
    charter: &Charter,
    key: &PublicKey,
    stored: &Stored,
) -> anyhow::Result<bool> {
    let mut ledger = Ledger::new(charter.clone(), None);
    for (_, row) in stored
        .iter()
        .filter(|((table, _), _)| *table == Table::Ledger)
    {
        let record = ledger.parse(row)?;
        ledger.append(record)?;
    }
    Ok(ledger.member(key).is_some())
}
