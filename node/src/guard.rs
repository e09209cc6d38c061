//! Libraries that panic at damaged files: whoever reads by them is told so, and nobody is shown the panic.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static SILENT: Cell<bool> = const { Cell::new(false) };
}

/// What a library reads from a file; `None` if it panicked, in place of saying what is wrong with the file.
///
/// What `read` changes outside must be thrown away then.
pub fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            if !SILENT.get() {
                usual(panic);
            }
        }));
    });
    let before = SILENT.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(read));
    SILENT.set(before);
    outcome.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_answer_here_and_nowhere_else() {
        assert_eq!(guarded(|| 7), Some(7));
        let inner = || guarded(|| -> u8 { panic!("at a damaged file") });
        assert_eq!(guarded(|| (inner(), SILENT.get())), Some((None, true)));
        assert!(!SILENT.get());
    }
}
