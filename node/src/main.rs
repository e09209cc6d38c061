//! The program `conclave`.

use std::process::ExitCode;

/// Training and simulating allocate all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keep_freed_memory();
    conclave::cli::main()
}

/// The system gets freed memory back after a minute: each training step takes again what the one before freed, and
/// pages that come fresh from the system cost it a tenth of its time.
fn keep_freed_memory() {
    #[expect(unsafe_code, reason = "an option of the allocator")]
    // SAFETY: the function may be called at any time; it ignores numbers that name no option.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, 60_000);
    }
}

/// `mi_option_purge_delay` in mimalloc's header, in milliseconds.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
