//! Signals: the first one asks the work to stop at its next safe point, the second one ends us at once. While we
//! ask somebody something, the first one ends us, and the terminal shows again what is typed.
//!
//! Either is safe for the repository: what no entry of the log names does not exist. SIGPIPE is ignored, as in
//! every Rust program; a reader that goes away shows as an error of the write.

use hikae_model::{Cancel, ErrorCode};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::{Mutex, PoisonError};

/// How the terminal was before we began to ask; nothing while we do not.
static ASKING: Mutex<Option<Termios>> = Mutex::new(None);

/// Starts to listen. Without it, signals end the process as usual, so a failure costs a clean end and no more.
pub fn cancel_on_signals(cancel: &Cancel) {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    let cancel = cancel.clone();
    let listen = move || {
        for _ in signals.forever() {
            let asking = ASKING.lock().unwrap_or_else(PoisonError::into_inner).take();
            if cancel.is_cancelled() || asking.is_some() {
                if let Some(before) = asking {
                    // If it cannot be set there is no terminal any more.
                    let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
                    eprintln!();
                }
                std::process::exit(i32::from(ErrorCode::Interrupted.exit_code()));
            }
            cancel.cancel();
        }
    };
    // If there is no thread to be had, signals are collected and nobody looks: end here instead.
    if std::thread::Builder::new().name("signals".to_owned()).spawn(listen).is_err() {
        eprintln!("error: cannot start a thread");
        std::process::exit(1);
    }
}

/// Asks somebody something on the terminal.
pub fn while_asking<T>(ask: impl FnOnce() -> T) -> T {
    let set = |to: Option<Termios>| *ASKING.lock().unwrap_or_else(PoisonError::into_inner) = to;
    set(tcgetattr(io::stdin()).ok());
    let answer = ask();
    set(None);
    answer
}
