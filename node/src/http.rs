//! The accept loop: HTTP/1.1 with keep-alive and HTTP/2 without TLS on one port.

mod plain;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use stockroom_shop_api::{Api, router};
use tokio::io::AsyncReadExt as _;
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
pub async fn serve(listener: TcpListener, api: Api, options: Options, stop: CancellationToken) {
    serve_with(listener, router(api.clone()), api, options, stop).await;
}

/// The same with another router than that of the API.
async fn serve_with(
    listener: TcpListener,
    router: Router,
    api: Api,
    options: Options,
    stop: CancellationToken,
) {
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
            api: api.clone(),
            service: TowerToHyperService::new(router.clone()),
            builder: builder.clone(),
            watcher: graceful.watcher(),
            idle_timeout: options.idle_timeout,
            stop: stop.clone(),
        };
        tokio::spawn(async move {
            connection.serve(stream).await;
            drop(slot);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

struct Connection {
    api: Api,
    service: TowerToHyperService<Router>,
    builder: Builder<TokioExecutor>,
    watcher: Watcher,
    idle_timeout: Duration,
    stop: CancellationToken,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        let ended = plain::serve(stream, &self.api, self.idle_timeout, &self.stop).await;
        let plain::Ended::NotPlain { stream, read } = ended else { return };
        let (reader, writer) = stream.into_split();
        let stream = tokio::io::join(std::io::Cursor::new(read).chain(reader), writer);
        let connection = self.builder.serve_connection(TokioIo::new(stream), self.service);
        // Boxed: most connections never come here, and none should be as large as hyper's.
        if let Err(error) = Box::pin(self.watcher.watch(connection.into_owned())).await {
            debug!(%error, "a connection ended early");
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
    use axum::routing::{get, post};
    use stockroom_shop_api::Limits;
    use tokio::io::AsyncWriteExt as _;
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(10);
    const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    struct Server {
        address: String,
        /// Of no member: it refuses every call of the shop.
        api: Api,
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
        let api = Api::new(Limits::default(), 1);
        let router = Router::new()
            .route("/", get(handler))
            .route("/echo", post(|body: String| async { body }))
            .fallback_service(router(api.clone()));
        let stop = CancellationToken::new();
        let options = Options { connections_max, idle_timeout };
        let served = tokio::spawn(serve_with(listener, router, api.clone(), options, stop.clone()));
        Server { address, api, stop, served, arrived }
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

    /// A plain request, named by its request id.
    fn order(id: &str) -> String {
        format!("POST /v1/orders HTTP/1.1\r\nHost: x\r\nX-Request-Id: {id}\r\nContent-Length: 2\r\n\r\n{{}}")
    }

    /// The end of the refusal of the request of this id: `request_id` is the last member of a problem.
    fn refusal(id: &str) -> String {
        format!("\"request_id\":\"{id}\"}}")
    }

    async fn connect(server: &Server) -> TcpStream {
        TcpStream::connect(&server.address).await.expect("accepted")
    }

    #[tokio::test]
    async fn plain_requests_are_answered_in_order_however_their_bytes_come() {
        let server = server(8, PATIENCE).await;
        let mut stream = connect(&server).await;
        for piece in order("in-pieces").as_bytes().chunks(7) {
            stream.write_all(piece).await.expect("sent");
            tokio::task::yield_now().await;
        }
        let answer = read_until(&mut stream, &refusal("in-pieces")).await;
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
        let many: Vec<String> = (0..100).map(|i| format!("no-{i}")).collect();
        let all: String = many.iter().map(|id| order(id)).collect();
        stream.write_all(all.as_bytes()).await.expect("sent");
        let answers = read_until(&mut stream, &refusal("no-99")).await;
        let found: Vec<&str> =
            answers.split("x-request-id: ").skip(1).filter_map(|rest| rest.split("\r\n").next()).collect();
        assert_eq!(found, many);
    }

    #[tokio::test]
    async fn what_is_not_plain_goes_to_hyper_with_all_that_was_read() {
        let mut server = server(8, PATIENCE).await;
        let mut stream = connect(&server).await;
        // Plain, and behind it in the same packet one that is not.
        let chunked =
            "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        stream.write_all((order("first") + chunked).as_bytes()).await.expect("sent");
        let answers = read_until(&mut stream, "hello").await;
        assert!(answers.contains(&refusal("first")) && answers.contains("HTTP/1.1 200"), "{answers}");
        stream.write_all(order("by-hyper").as_bytes()).await.expect("sent");
        read_until(&mut stream, &refusal("by-hyper")).await;
        stream.write_all(ASK).await.expect("sent");
        server.arrived.recv().await.expect("a request").send(()).expect("waits");
        read_until(&mut stream, "done").await;

        let mut stream = connect(&server).await;
        let expecting = "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        stream.write_all(expecting.as_bytes()).await.expect("sent");
        read_until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
        stream.write_all(b"ok").await.expect("sent");
        read_until(&mut stream, "ok").await;

        let mut stream = connect(&server).await;
        let head_of = "HEAD /v1/stock/a HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(head_of.as_bytes()).await.expect("sent");
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }

    #[tokio::test]
    async fn a_body_that_takes_its_time_is_waited_for() {
        let server = server(8, PATIENCE).await;
        let mut stream = connect(&server).await;
        let whole = order("slow");
        let (begin, end) = whole.split_at(whole.len() - 1);
        stream.write_all(begin.as_bytes()).await.expect("sent");
        // Longer than the short way waits for a body: hyper has it by then.
        tokio::time::sleep(3 * plain::BODY_PATIENCE).await;
        stream.write_all(end.as_bytes()).await.expect("sent");
        read_until(&mut stream, &refusal("slow")).await;
    }

    #[tokio::test]
    async fn a_stop_closes_plain_connections_once_they_are_idle() {
        let server = server(8, PATIENCE).await;
        let (mut idle, mut busy) = (connect(&server).await, connect(&server).await);
        for stream in [&mut idle, &mut busy] {
            stream.write_all(order("one").as_bytes()).await.expect("sent");
            let answer = read_until(stream, &refusal("one")).await;
            assert!(!answer.contains("connection:"), "{answer}");
        }
        // A head that has begun, and is sure to have been read when what was sent later is answered.
        let two = order("two");
        busy.write_all((order("one") + &two[..20]).as_bytes()).await.expect("sent");
        read_until(&mut busy, &refusal("one")).await;
        server.api.set_draining();
        server.stop.cancel();
        assert!(is_closed(&mut idle).await);
        busy.write_all(&two.as_bytes()[20..]).await.expect("sent");
        let answer = read_until(&mut busy, &refusal("two")).await;
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(is_closed(&mut busy).await);
        timeout(PATIENCE, server.served).await.expect("ends").expect("without panic");
    }

    #[tokio::test]
    async fn an_idle_time_out_begins_anew_with_each_answer_and_not_with_each_byte() {
        let idle = Duration::from_secs(2);
        let server = server(8, idle).await;
        let mut stream = connect(&server).await;
        for _ in 0..2 {
            // Twice this is longer than the time-out, which an answer begins anew.
            tokio::time::sleep(idle * 3 / 5).await;
            stream.write_all(order("again").as_bytes()).await.expect("sent");
            read_until(&mut stream, &refusal("again")).await;
        }
        for byte in order("never").bytes() {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(idle / 8).await;
        }
        panic!("a head of {} eighths of the time-out was waited for", order("never").len());
    }
}
