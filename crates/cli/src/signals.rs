//! Signals: the first one asks the work to stop at its next safe point, the second one ends us at once.
//!
//! Either is safe for the repository: what no entry of the log names does not exist. SIGPIPE is ignored, as in
//! every Rust program; a reader that goes away shows as an error of the write.

use hikae_model::{Cancel, ErrorCode};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Starts to listen. Without it, signals end the process as usual, so a failure costs a clean end and no more.
pub fn cancel_on_signals(cancel: &Cancel) {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    let cancel = cancel.clone();
    let listen = move || {
        for _ in signals.forever() {
            if cancel.is_cancelled() {
                std::process::exit(i32::from(ErrorCode::Interrupted.exit_code()));
            }
            cancel.cancel();
        }
    };
    // If there is no thread to be had, signals are collected and nobody looks: undo that by ending as usual.
    if std::thread::Builder::new().name("signals".to_owned()).spawn(listen).is_err() {
        eprintln!("error: cannot start a thread");
        std::process::exit(1);
    }
}
