//! The node of conclave.

pub mod learn;
