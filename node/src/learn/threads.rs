//! One thread for candle's own loops.
//!
//! Candle adds large tensors on a pool of its own, whose threads wait for one another by spinning. On a machine with
//! more to do than cores, five nodes on a laptop, half of all processor time went into waiting (measured). The pool's
//! size is read once, from `CANDLE_NUM_THREADS`; and as changing the own environment is not safe while threads run,
//! the program starts itself over with it set. Our own operations have their threads from `--threads`.

/// Starts the program over with candle's pool switched off, unless the variable is set. Call it first of all.
/// Where that fails, the program goes on as it is.
#[cfg(unix)]
pub fn settle() {
    use std::os::unix::process::CommandExt as _;

    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut arguments = std::env::args_os();
    let mut command = std::process::Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let _went_on = command.args(arguments).env(VARIABLE, "1").exec();
}

/// Elsewhere nothing is done.
#[cfg(not(unix))]
pub fn settle() {}

#[cfg(unix)]
const VARIABLE: &str = "CANDLE_NUM_THREADS";
