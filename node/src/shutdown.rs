//! One stop signal, and the order of stopping.
//!
//! 1. `/readyz` fails, so that load balancers turn away.
//! 2. For a moment new requests are refused as definitely not done, each connection ending with that answer; then no new
//!    connections, and requests in flight are answered.
//! 3. Leadership is handed over, the log is synced and sealed.
//!
//! All within one deadline. A second signal ends the process at once: whoever sends it has waited long enough,
//! and nothing that was acknowledged can be lost by it.

use std::io::Read as _;
use std::process;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Exit code of a stop that a second signal cut short, or that ran out of time.
pub const NOT_DRAINED: u8 = 4;

/// Starts to listen for SIGTERM and SIGINT. The token is cancelled by the first; the second ends the process.
///
/// # Errors
/// Where the operating system refuses to install a handler.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(watch(terminate, interrupt, stop.clone()));
    Ok(stop)
}

async fn watch(mut terminate: Signal, mut interrupt: Signal, stop: CancellationToken) {
    let name = next(&mut terminate, &mut interrupt).await;
    info!(signal = name, "stopping");
    stop.cancel();
    let name = next(&mut terminate, &mut interrupt).await;
    warn!(signal = name, "second signal: ending at once");
    process::exit(NOT_DRAINED.into());
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Cancels `stop` when standard input ends, which it does when the parent that holds its other end is gone,
/// however it died.
pub fn when_parent_ends(stop: CancellationToken) {
    // A thread, because nothing can interrupt the read: a task would hold up the end of the runtime.
    std::thread::spawn(move || {
        let (mut input, mut byte) = (std::io::stdin().lock(), [0]);
        while matches!(input.read(&mut byte), Ok(1..)) {}
        info!("the parent process is gone: stopping");
        stop.cancel();
    });
}
