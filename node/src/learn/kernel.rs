//! The arithmetic under the operations: plain slices of `f32` in, plain slices out, no graph.
//!
//! Matrices are row-major. Each function runs on the threads of the rayon pool that it is called in and gives the
//! same bits at any number of them: work is split over outputs, never over sums.

pub mod attention;
pub mod elementwise;
pub mod gelu;
#[cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux")),
    path = "kernel/no_halves.rs"
)]
pub mod halves;
pub mod layer_norm;
pub mod product;
pub mod rope;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;
