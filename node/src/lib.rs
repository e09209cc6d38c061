//! The node of conclave: everything that touches the world.

pub mod allocator;
pub mod api;
pub mod cli;
pub mod commands;
pub mod config;
pub mod driver;
pub mod guard;
pub mod keys;
pub mod learn;
pub mod local;
pub mod network;
pub mod report;
mod said;
pub mod scenario;
pub mod store;
pub mod telemetry;
pub mod testnet;
pub mod ticket;
