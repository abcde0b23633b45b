//! The accept loop: HTTP/1.1 with keep-alive and HTTP/2 without TLS on one port.

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// What the accept loop allows.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Connections at a time.
    pub connections_max: usize,
    /// Longest time without a (whole) request head.
    pub idle_timeout: Duration,
}

/// Serves until `stop`, then lets requests in flight end. Idle connections are closed at once.
pub async fn serve(listener: TcpListener, router: Router, options: Options, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(options.connections_max));
    let graceful = GracefulShutdown::new();
    let builder = builder(options);
    loop {
        // A slot first: without one, connections wait in the listener's backlog.
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot.expect("never closed"),
            () = stop.cancelled() => break,
        };
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = stop.cancelled() => break,
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended early");
            }
            drop(slot);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

fn builder(options: Options) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(options.idle_timeout).keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(options.idle_timeout)
        .max_concurrent_streams(1024);
    builder
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Answers are small; waiting to fill a packet would cost 40 ms each.
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "TCP_NODELAY refused");
                }
                return stream;
            }
            // Out of file descriptors, most likely: they come back when connections close.
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
