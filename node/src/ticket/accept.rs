//! Entering by a ticket: what stands in the data folder afterwards.

use std::path::{Path, PathBuf};

use conclave_crypto::sign::PublicKey;
use conclave_protocol::charter::CharterError;
use conclave_protocol::limits;

use super::{FILE, Ticket};
use crate::config::{self, ConfigError, NodeConfig};
use crate::keys::{self, KeyError};

/// The federation's charter in a data folder.
const CHARTER: &str = "charter.toml";

/// What the newcomer decides itself.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// What it wants to be called.
    pub name: String,
    /// Its rows; what `node.toml` says stays without.
    pub data: Option<PathBuf>,
    /// The base model's folder; likewise.
    pub model: Option<PathBuf>,
}

/// Why a folder cannot enter.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The ticket is void.
    #[error("the invitation has expired: ask for a new ticket (`conclave invite`)")]
    Expired,
    /// The ticket names another holder.
    #[error(
        "the invitation is for the key {invitee}, but this folder holds {key}; ask for a ticket for this key"
    )]
    Else {
        /// For whom it is.
        invitee: PublicKey,
        /// Whose the folder is.
        key: PublicKey,
    },
    /// The folder belongs to another federation.
    #[error("{path} is the charter of another federation: join in a folder of its own with --dir")]
    Taken {
        /// The charter that is there.
        path: PathBuf,
    },
    /// The charter that is there breaks a rule.
    #[error("{path}: {source}")]
    Charter {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: CharterError,
    },
    /// A name that no record can hold.
    #[error(
        "the name {name:?} must have 1 to {} bytes; give another one with --name",
        limits::NAME
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The identity.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// `node.toml`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file system.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Checks whether the ticket is good for this folder, and writes nothing. Gives the folder's key, if there is one.
pub fn check(
    ticket: &Ticket,
    dir: &Path,
    wishes: &Wishes,
    now_ms: u64,
) -> Result<Option<PublicKey>, AcceptError> {
    if super::has_expired(&ticket.invite, now_ms) {
        return Err(AcceptError::Expired);
    }
    if wishes.name.is_empty() || wishes.name.len() > limits::NAME {
        return Err(AcceptError::Name {
            name: wishes.name.clone(),
        });
    }
    let known = match keys::open(dir) {
        Ok(identity) => Some(identity.public()),
        Err(KeyError::Absent(_)) => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(invitee) = ticket.invite.invitee {
        let holder = known.ok_or_else(|| KeyError::Absent(dir.join(keys::FILE)))?;
        if holder != invitee {
            return Err(AcceptError::Else {
                invitee,
                key: holder,
            });
        }
    }
    check_charter(&dir.join(CHARTER), ticket)?;
    Ok(known)
}

/// Makes (or completes) the data folder: identity, charter, settings and the ticket itself. Everything is checked
/// before anything is written. Gives the newcomer's key.
pub fn accept(
    ticket: &Ticket,
    dir: &Path,
    wishes: &Wishes,
    now_ms: u64,
) -> Result<PublicKey, AcceptError> {
    let known = check(ticket, dir, wishes, now_ms)?;
    let settings = settings(ticket, dir, wishes)?;
    std::fs::create_dir_all(dir).map_err(|source| io(dir, source))?;
    let key = match known {
        Some(key) => key,
        None => keys::create(dir)?.public(),
    };
    write(&dir.join(CHARTER), &ticket.charter.to_toml())?;
    write(&dir.join(config::FILE), &settings.to_toml())?;
    write(&dir.join(FILE), &format!("{}\n", ticket.to_text()))?;
    Ok(key)
}

/// A charter that is there already must be the ticket's.
fn check_charter(path: &Path, ticket: &Ticket) -> Result<(), AcceptError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io(path, source)),
    };
    let path = path.to_owned();
    match conclave_protocol::charter::Charter::parse(&text) {
        Ok(charter) if charter.digest() == ticket.charter.digest() => Ok(()),
        Ok(_) => Err(AcceptError::Taken { path }),
        Err(source) => Err(AcceptError::Charter { path, source }),
    }
}

/// The settings that are there, with what the ticket and the newcomer add.
fn settings(ticket: &Ticket, dir: &Path, wishes: &Wishes) -> Result<NodeConfig, AcceptError> {
    let path = dir.join(config::FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(io(&path, source)),
    };
    let mut settings = NodeConfig::parse(&path, &text, |_| None)?;
    settings.name = Some(wishes.name.clone());
    settings.bootstrap = Some(ticket.addresses.clone());
    for (place, wish) in [
        (&mut settings.data, &wishes.data),
        (&mut settings.model, &wishes.model),
    ] {
        if let Some(path) = wish {
            *place = Some(std::path::absolute(path).map_err(|source| io(path, source))?);
        }
    }
    Ok(settings)
}

fn write(path: &Path, text: &str) -> Result<(), AcceptError> {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text)
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(|source| io(path, source))
}

fn io(path: &Path, source: std::io::Error) -> AcceptError {
    AcceptError::Io {
        path: path.to_owned(),
        source,
    }
}
