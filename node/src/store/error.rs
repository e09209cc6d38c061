//! Why the durable state cannot be used: what, where, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use conclave_crypto::digest::Digest;

/// A fault of the data folder. None of them changes what lies there.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the folder.
    #[error(
        "another node is running in {dir}: stop it, or give this one a folder of its own with --dir"
    )]
    Locked {
        /// The data folder.
        dir: PathBuf,
    },
    /// There is no database.
    #[error("there is no ledger at {path}: name a data folder in which a node has run")]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The database was written by a newer program.
    #[error(
        "{path} has schema {found}, this program knows up to {known}: run the newer conclave that wrote it"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// The database belongs to another federation.
    #[error(
        "{path} was made for charter {found}, but charter.toml has the digest {expected}: \
         put the old charter back, or start in an empty folder"
    )]
    Charter {
        /// The database.
        path: PathBuf,
        /// The charter it was made for.
        found: Digest,
        /// The charter given now.
        expected: Digest,
    },
    /// The file is no sound database.
    #[error(
        "{path} is damaged ({detail}): it was left as it is; `conclave run --repair` keeps what is whole, moves the \
         file aside and catches up from the other members"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// No space is left.
    #[error(
        "the disk is full at {path}: free some space and start the node again, nothing durable was lost"
    )]
    Full {
        /// What was being written.
        path: PathBuf,
    },
    /// A secret's key is no plain file name.
    #[error("{name:?} cannot name a secret: only letters, digits, '.', '-' and '_' can")]
    SecretName {
        /// The key.
        name: String,
    },
    /// The operating system refused.
    #[error("cannot use {path}: {detail}; see to the folder's rights and the disk")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// The system's words.
        detail: String,
    },
}

impl StoreError {
    /// A fault of the operating system at `path`.
    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::Full { path },
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Damaged {
                path,
                detail: error.to_string(),
            },
            _ => Self::Io {
                path,
                detail: error.to_string(),
            },
        }
    }

    /// A fault of the database at `path`.
    pub(super) fn database(path: &Path, error: &redb::Error) -> Self {
        match error {
            redb::Error::Io(error) => Self::io(path, error),
            redb::Error::DatabaseAlreadyOpen => Self::Locked {
                dir: path.parent().unwrap_or(path).to_owned(),
            },
            other => Self::Damaged {
                path: path.to_owned(),
                detail: other.to_string().replace('\n', " "),
            },
        }
    }
}
