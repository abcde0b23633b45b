//! The accept loop: HTTP/1.1 with keep-alive and HTTP/2 without TLS on one port.

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
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
        let connection = Connection {
            stream,
            service: TowerToHyperService::new(router.clone()),
            builder: builder.clone(),
            watcher: graceful.watcher(),
            idle_timeout: options.idle_timeout,
            stop: stop.clone(),
        };
        tokio::spawn(async move {
            connection.serve().await;
            drop(slot);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

struct Connection {
    stream: TcpStream,
    service: TowerToHyperService<Router>,
    builder: Builder<TokioExecutor>,
    watcher: Watcher,
    idle_timeout: Duration,
    stop: CancellationToken,
}

impl Connection {
    async fn serve(self) {
        // hyper finds out which protocol is spoken without a time-out; who never says a byte would stay for ever.
        let mut first = [0];
        let speaks = tokio::select! {
            read = timeout(self.idle_timeout, self.stream.peek(&mut first)) => matches!(read, Ok(Ok(1..))),
            () = self.stop.cancelled() => false,
        };
        if speaks {
            let connection = self.builder.serve_connection(TokioIo::new(self.stream), self.service);
            if let Err(error) = self.watcher.watch(connection.into_owned()).await {
                debug!(%error, "a connection ended early");
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;

    const PATIENCE: Duration = Duration::from_secs(10);
    const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    struct Server {
        address: String,
        stop: CancellationToken,
        served: JoinHandle<()>,
        /// One for each request that has reached its handler; the handler waits until it is told to go on.
        arrived: mpsc::Receiver<tokio::sync::oneshot::Sender<()>>,
    }

    async fn server(connections_max: usize, idle_timeout: Duration) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (send, arrived) = mpsc::channel(8);
        let handler = move || {
            let send = send.clone();
            async move {
                let (go, gone) = tokio::sync::oneshot::channel();
                send.send(go).await.expect("the test listens");
                gone.await.expect("the test lets it go");
                "done"
            }
        };
        let router = Router::new().route("/", get(handler));
        let stop = CancellationToken::new();
        let options = Options { connections_max, idle_timeout };
        let served = tokio::spawn(serve(listener, router, options, stop.clone()));
        Server { address, stop, served, arrived }
    }

    async fn read_until(stream: &mut TcpStream, end: &str) -> String {
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).ends_with(end) {
            let read =
                timeout(PATIENCE, stream.read_buf(&mut text)).await.expect("in time").expect("readable");
            assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&text));
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        matches!(timeout(PATIENCE, stream.read(&mut [0; 64])).await, Ok(Ok(0) | Err(_)))
    }

    #[tokio::test]
    async fn a_stop_answers_what_is_in_flight_and_closes_the_rest() {
        let mut server = server(8, PATIENCE).await;
        let mut busy = TcpStream::connect(&server.address).await.expect("accepted");
        let mut idle = TcpStream::connect(&server.address).await.expect("accepted");
        idle.write_all(ASK).await.expect("sent");
        server.arrived.recv().await.expect("a request").send(()).expect("waits");
        read_until(&mut idle, "done").await;
        busy.write_all(ASK).await.expect("sent");
        let go = server.arrived.recv().await.expect("a request");
        server.stop.cancel();
        assert!(is_closed(&mut idle).await);
        assert!(!server.served.is_finished(), "a request is in flight");
        go.send(()).expect("waits");
        assert!(read_until(&mut busy, "done").await.starts_with("HTTP/1.1 200"));
        timeout(PATIENCE, server.served).await.expect("ends").expect("without panic");
        assert!(TcpStream::connect(&server.address).await.is_err(), "still listens");
    }

    #[tokio::test]
    async fn a_connection_serves_many_requests_and_both_protocols_share_the_port() {
        let mut server = server(8, PATIENCE).await;
        let mut stream = TcpStream::connect(&server.address).await.expect("accepted");
        for _ in 0..2 {
            stream.write_all(ASK).await.expect("sent");
            server.arrived.recv().await.expect("a request").send(()).expect("waits");
            read_until(&mut stream, "done").await;
        }
        // The preface of HTTP/2 and an empty SETTINGS frame, which is answered by one (type 4).
        let mut second = TcpStream::connect(&server.address).await.expect("accepted");
        second.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
        let mut frame = [0; 9];
        timeout(PATIENCE, second.read_exact(&mut frame)).await.expect("in time").expect("a frame");
        assert_eq!(frame[3], 4, "{frame:?}");
    }

    #[tokio::test]
    async fn a_connection_above_the_limit_waits_for_one_to_close() {
        let mut server = server(1, PATIENCE).await;
        let mut first = TcpStream::connect(&server.address).await.expect("accepted");
        first.write_all(ASK).await.expect("sent");
        let go = server.arrived.recv().await.expect("a request");
        let mut second = TcpStream::connect(&server.address).await.expect("in the backlog");
        second.write_all(ASK).await.expect("sent");
        let early = timeout(Duration::from_millis(200), server.arrived.recv()).await;
        assert!(early.is_err(), "served beyond the limit");
        go.send(()).expect("waits");
        read_until(&mut first, "done").await;
        drop(first);
        let go = timeout(PATIENCE, server.arrived.recv()).await.expect("its turn").expect("a request");
        go.send(()).expect("waits");
        read_until(&mut second, "done").await;
    }

    #[tokio::test]
    async fn a_connection_that_never_ends_its_headers_is_closed() {
        let server = server(8, Duration::from_millis(100)).await;
        let mut slow = TcpStream::connect(&server.address).await.expect("accepted");
        slow.write_all(b"GET / HTTP/1.1\r\nHost: ").await.expect("sent");
        let mut silent = TcpStream::connect(&server.address).await.expect("accepted");
        assert!(is_closed(&mut slow).await);
        assert!(is_closed(&mut silent).await);
    }
}
