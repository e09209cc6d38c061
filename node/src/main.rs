//! The program `conclave`.

use std::process::ExitCode;

/// Training and simulating allocate all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    conclave::allocator::keep_freed_memory();
    conclave::cli::main()
}
