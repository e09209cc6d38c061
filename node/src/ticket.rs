//! A ticket: everything that a newcomer needs to enter a federation, as one word to paste.
//!
//! ```text
//! conclave1 ‖ hexadecimal digits of: checksum (4 bytes) ‖ encoding of (invitation, addresses, charter)
//! ```
//! The charter is in it, so that joining needs no network; its digest stands in the signed invitation, so that nobody
//! can slip in another one.

mod accept;
mod issue;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use conclave_crypto::digest::Digest;
use conclave_protocol::charter::{Charter, CharterError};
use conclave_protocol::message::{self, Invite};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

pub use accept::{AcceptError, Wishes, accept, check};
pub use issue::{IssueError, Terms, callable, is_near, issue};

/// Where the ticket stands in the data folder of one who entered by it.
pub const FILE: &str = "ticket";

/// How every ticket begins: the word, and the version of what follows.
const PREFIX: &str = "conclave1";
/// Bytes of the checksum.
const CHECKSUM: usize = 4;
/// The longest charter, in bytes of its text.
const CHARTER_MAX: u64 = 1 << 20;

/// A charter, where to begin, and a member's word that its holder may enter.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticket {
    /// The signed invitation.
    pub invite: Invite,
    /// Where members may be met, with `/p2p/…`.
    pub addresses: Vec<String>,
    /// The agreement.
    pub charter: Charter,
}

/// What is written down.
#[derive(bincode::Encode, bincode::Decode)]
struct Contents {
    invite: Invite,
    addresses: Vec<String>,
    /// The charter's text, compressed by zlib.
    charter: Vec<u8>,
}

/// Why a text is no ticket.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// It begins otherwise.
    #[error(
        "this is no ticket: one begins with {PREFIX}; paste the whole line that `conclave invite` printed"
    )]
    Foreign,
    /// Its checksum is another.
    #[error("the ticket is cut or mistyped: its checksum does not fit; paste it whole")]
    Torn,
    /// What it holds contradicts itself.
    #[error(
        "the ticket is sound text but holds no invitation to a charter ({0}); ask for another one"
    )]
    Odd(String),
    /// Its charter breaks a rule.
    #[error("the ticket's charter: {0}")]
    Charter(#[from] CharterError),
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Ticket {
    /// The word to paste.
    pub fn to_text(&self) -> String {
        let mut compressed = ZlibEncoder::new(Vec::new(), Compression::best());
        let charter = compressed
            .write_all(self.charter.to_toml().as_bytes())
            .and_then(|()| compressed.finish())
            .expect("compressing to memory does not fail");
        let bytes = message::encode(&Contents {
            invite: self.invite.clone(),
            addresses: self.addresses.clone(),
            charter,
        });
        word(&bytes)
    }

    /// Reads what was pasted; spaces and line breaks that an editor put in do no harm.
    pub fn parse(text: &str) -> Result<Self, TicketError> {
        let text: String = text.split_whitespace().collect();
        let digits = text.strip_prefix(PREFIX).ok_or(TicketError::Foreign)?;
        let bytes = hex::decode(digits).map_err(|_| TicketError::Torn)?;
        let (sum, bytes) = bytes.split_at_checked(CHECKSUM).ok_or(TicketError::Torn)?;
        if sum != checksum(bytes) {
            return Err(TicketError::Torn);
        }
        let odd = |what: &str| TicketError::Odd(what.to_owned());
        let contents: Contents =
            message::decode(bytes).map_err(|_| odd("it was made by another version"))?;
        let mut charter = String::new();
        ZlibDecoder::new(contents.charter.as_slice())
            .take(CHARTER_MAX + 1)
            .read_to_string(&mut charter)
            .map_err(|_| odd("its charter cannot be unpacked"))?;
        if charter.len() as u64 > CHARTER_MAX {
            return Err(odd("its charter is too long"));
        }
        let charter = Charter::parse(&charter)?;
        if charter.digest() != contents.invite.charter {
            return Err(odd("its invitation is to another charter"));
        }
        Ok(Self {
            invite: contents.invite,
            addresses: contents.addresses,
            charter,
        })
    }

    /// The ticket that a data folder was joined by; none in a founder's.
    pub fn open(dir: &Path) -> Result<Option<Self>, TicketError> {
        let path = dir.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(TicketError::Io { path, source }),
        }
    }
}

/// Whether an invitation is void at this time, in milliseconds of Unix time.
pub const fn has_expired(invite: &Invite, now_ms: u64) -> bool {
    invite.expires != 0 && invite.expires < now_ms
}

/// Milliseconds of Unix time.
pub fn now_ms() -> u64 {
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}

/// The word of these contents, sound or not.
pub fn word(contents: &[u8]) -> String {
    let (sum, contents) = (hex::encode(checksum(contents)), hex::encode(contents));
    format!("{PREFIX}{sum}{contents}")
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let digest = Digest::of("conclave/v1/ticket", &[bytes]);
    let [a, b, c, d, ..] = *digest.as_bytes();
    [a, b, c, d]
}

#[cfg(test)]
pub(crate) mod tests;
