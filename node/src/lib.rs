//! The node of conclave.
