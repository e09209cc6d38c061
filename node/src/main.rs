//! The binary of conclave.
fn main() {}
