//! The commands: one file a verb. Each has its `Args` and a `run` that ends with a result or one sentence.

pub mod charter;
pub mod chat;
pub mod eval;
pub mod export;
pub mod generate;
pub mod init;
pub mod invite;
pub mod join;
pub mod ledger;
pub mod loading;
pub mod method;
pub mod peers;
pub mod rounds;
pub mod run;
pub mod simulate;
pub mod source;
pub mod status;
pub mod testnet;
pub mod train;
pub mod writing;
