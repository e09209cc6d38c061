//! The node of conclave.

pub mod learn;
pub mod store;
