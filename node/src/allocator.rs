//! What the allocator does with freed memory: it keeps it while a step follows a step, and gives it back between the
//! rounds of a federation.

/// The system gets freed memory back after a minute: each training step takes again what the one before freed, and
/// pages that come fresh from the system cost it a tenth of its time.
pub fn keep_freed_memory() {
    #[expect(unsafe_code, reason = "an option of the allocator")]
    // SAFETY: the function may be called at any time; it ignores numbers that name no option.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, 60_000);
    }
}

/// From now on memory comes in pages of the common size. Over the huge ones that Linux would give, a world of many
/// members strews small pieces: each is cleared whole for the little that is used of it, a twentieth of all time.
pub fn take_small_pages() {
    #[cfg(target_os = "linux")]
    let _where_it_may_be_said = rustix::thread::disable_transparent_huge_pages(true);
}

/// Gives the system at once what this thread has freed.
pub fn give_back() {
    #[expect(unsafe_code, reason = "a call of the allocator")]
    // SAFETY: the function may be called at any time, by any thread; it touches free memory only.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

/// `mi_option_purge_delay` in mimalloc's header, in milliseconds.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
