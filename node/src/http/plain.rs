//! The short way: plain requests of the shop, read and answered in place.
//!
//! Of the CPU of an order in a busy cluster, a quarter went into what hyper and axum make of a request: maps
//! of headers, boxed bodies and futures, timers. A request is plain when it is HTTP/1.1, holds nothing that
//! a server would have to decide about (see [`find`]), and is one that a [`WholeRequest`] can be. With the
//! first that is not, the connection goes to hyper, with all that was read of it, and stays there.

use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;
use stockroom_shop_api::{Api, WholeRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Room for most requests.
const READ_BYTES: usize = 4 << 10;
/// Buffers that a request or an answer made larger are given back.
const KEEP_BYTES: usize = 64 << 10;
/// Larger heads and bodies are not plain.
const HEAD_BYTES_MAX: usize = 8 << 10;
const BODY_BYTES_MAX: usize = 512 << 10;
const HEADERS_MAX: usize = 32;
/// How long the rest of a body may take. Who is slower is not plain: hyper keeps to the request's deadline.
pub const BODY_PATIENCE: Duration = Duration::from_millis(100);

/// Why a connection is served no longer.
pub enum Ended {
    /// It is of no further use.
    Closed,
    /// What was `read` and not answered begins with a request that is not plain.
    NotPlain { stream: TcpStream, read: Vec<u8> },
}

/// What lies at the beginning of a buffer.
#[derive(Debug)]
enum Found<'b> {
    /// A request, the length of its head, and that of head and body.
    Request(WholeRequest<'b>, usize, usize),
    None(Wanted),
}

/// What has to come before the next request can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// A head, or the rest of it.
    Head,
    /// So many bytes of a body.
    Body(usize),
    /// Somebody who knows all of HTTP.
    Hyper,
}

struct Connection {
    stream: TcpStream,
    /// Read and not answered.
    read: Vec<u8>,
    /// Answered and not sent.
    out: Vec<u8>,
    /// When it began to wait for the next head.
    since: Instant,
}

/// Serves a connection until it ends, or a request comes that is not plain.
pub async fn serve(stream: TcpStream, api: &Api, idle_timeout: Duration, stop: &CancellationToken) -> Ended {
    let since = Instant::now();
    let mut connection = Connection { stream, read: Vec::new(), out: Vec::new(), since };
    // One timer and one wait for the stop per connection; for each request they would cost as much as its head.
    let (mut timer, mut stopped) = (pin!(sleep_until(since + idle_timeout)), pin!(stop.cancelled()));
    loop {
        let came = match connection.answer_all(api).await {
            Ok(Wanted::Head) => {
                // A head that has begun may still come: then it is answered before the connection closes.
                let (idle, until) = (connection.read.is_empty(), connection.since + idle_timeout);
                tokio::select! {
                    biased;
                    () = &mut stopped, if idle => return Ended::Closed,
                    came = connection.fill(0) => came,
                    () = expired(timer.as_mut(), until) => return Ended::Closed,
                }
            }
            Ok(Wanted::Body(bytes)) => match timeout(BODY_PATIENCE, connection.fill(bytes)).await {
                Ok(came) => came,
                Err(_) => return connection.not_plain(),
            },
            Ok(Wanted::Hyper) => return connection.not_plain(),
            Err(error) => Err(error),
        };
        if came.is_err() {
            return Ended::Closed;
        }
    }
}

/// Waits until then, by a timer that is set anew only where it went off too early.
async fn expired(mut timer: Pin<&mut Sleep>, until: Instant) {
    loop {
        timer.as_mut().await;
        if timer.deadline() >= until {
            return;
        }
        timer.as_mut().reset(until);
    }
}

impl Connection {
    /// Answers all plain requests that are here whole, in their order.
    async fn answer_all(&mut self, api: &Api) -> io::Result<Wanted> {
        loop {
            let end = match find(&self.read) {
                Found::Request(request, head, end) => {
                    api.answer(request, &self.read[head..end], &mut self.out).await;
                    end
                }
                Found::None(wanted) => {
                    self.flush().await?;
                    return Ok(wanted);
                }
            };
            self.read.drain(..end);
            self.since = Instant::now();
            if self.out.len() >= KEEP_BYTES {
                self.flush().await?;
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await?;
            self.out.clear();
            self.out.shrink_to(KEEP_BYTES);
            self.read.shrink_to(KEEP_BYTES);
        }
        Ok(())
    }

    /// Waits for more bytes, where so many are missing. That no more will come is an error.
    async fn fill(&mut self, missing: usize) -> io::Result<()> {
        self.read.reserve(missing.max(READ_BYTES));
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn not_plain(self) -> Ended {
        Ended::NotPlain { stream: self.stream, read: self.read }
    }
}

/// The request at the beginning of what was read.
fn find(read: &[u8]) -> Found<'_> {
    if read.is_empty() {
        return Found::None(Wanted::Head);
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(read) {
        Ok(httparse::Status::Complete(head)) if head <= HEAD_BYTES_MAX => head,
        Ok(httparse::Status::Partial) if read.len() <= HEAD_BYTES_MAX => return Found::None(Wanted::Head),
        // Malformed or too long, of another version, or HTTP/2: hyper answers it as it should be.
        _ => return Found::None(Wanted::Hyper),
    };
    let (Some(method), Some(target), Some(1)) = (request.method, request.path, request.version) else {
        return Found::None(Wanted::Hyper);
    };
    let Some(body) = body_length(request.headers).filter(|_| is_plain_target(target)) else {
        return Found::None(Wanted::Hyper);
    };
    let named = request.headers.iter().map(|header| (header.name, header.value));
    let Some(whole) = WholeRequest::new(method, target, named) else {
        return Found::None(Wanted::Hyper);
    };
    match (head + body).checked_sub(read.len()) {
        None | Some(0) => Found::Request(whole, head, head + body),
        Some(missing) => Found::None(Wanted::Body(missing)),
    }
}

/// The length of the body, where the headers say nothing else of how the request is sent.
fn body_length(headers: &[httparse::Header<'_>]) -> Option<usize> {
    let mut length = None;
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let digits = (1..=7).contains(&header.value.len()) && header.value.iter().all(u8::is_ascii_digit);
            if length.is_some() || !digits {
                return None;
            }
            length = Some(header.value.iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')));
        } else if is("connection") {
            if !header.value.eq_ignore_ascii_case(b"keep-alive") {
                return None;
            }
        } else if is("transfer-encoding") || is("expect") || is("upgrade") {
            return None;
        }
    }
    Some(length.unwrap_or(0)).filter(|length| *length <= BODY_BYTES_MAX)
}

/// A path and a query of the characters that RFC 3986 allows there.
fn is_plain_target(target: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/?".contains(&byte);
    target.starts_with('/') && target.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Option<Wanted> {
        match find(text.as_bytes()) {
            Found::Request(_, head, end) => {
                assert!(text[..head].ends_with("\r\n\r\n") && end <= text.len(), "{text}");
                None
            }
            Found::None(wanted) => Some(wanted),
        }
    }

    fn request(method: &str, target: &str, headers: &str, body: &str) -> String {
        format!("{method} {target} HTTP/1.1\r\nhost: x\r\n{headers}\r\n{body}")
    }

    #[test]
    fn plain_requests_are_whole_once_all_of_them_is_there() {
        let text = request("POST", "/v1/orders", "Content-Length: 2\r\nConnection: Keep-Alive\r\n", "{}");
        assert_eq!(wanted(&text), None);
        assert_eq!(wanted(&(text.clone() + &text)), None);
        assert_eq!(wanted(&text[..text.len() - 1]), Some(Wanted::Body(1)));
        for end in 0..text.len() - 2 {
            assert_eq!(wanted(&text[..end]), Some(Wanted::Head), "{end}");
        }
        assert_eq!(wanted(&request("GET", "/v1/stock?sku=a%20b&sku=c+d", "", "")), None);
        assert_eq!(wanted(&request("POST", "/v1/orders", "", "")), None);
    }

    #[test]
    fn what_a_server_would_have_to_decide_about_is_not_plain() {
        let long = format!("x: {}\r\n", "y".repeat(HEAD_BYTES_MAX));
        let many = "x: y\r\n".repeat(HEADERS_MAX);
        for headers in [
            "transfer-encoding: chunked\r\n",
            "content-length: 2\r\ntransfer-encoding: chunked\r\n",
            "content-length: 2\r\ncontent-length: 2\r\n",
            "content-length: +2\r\n",
            "content-length: 2, 2\r\n",
            "content-length: \r\n",
            "content-length: 00000002\r\n",
            "content-length: 9999999\r\n",
            "expect: 100-continue\r\n",
            "connection: close\r\n",
            "connection: upgrade\r\nupgrade: h2c\r\n",
            "bad name: x\r\n",
            &long,
            &many,
        ] {
            let text = request("POST", "/v1/orders", headers, "{}");
            assert_eq!(wanted(&text), Some(Wanted::Hyper), "{headers}");
        }
        for (method, target) in [
            ("HEAD", "/v1/stock/a"),
            ("OPTIONS", "*"),
            ("GET", "http://x/v1/stock/a"),
            ("GET", "/v1/stock/a#b"),
            ("GET", "/v1/stock/k\u{e4}se"),
            ("GET", "/metrics"),
            ("get", "/v1/stock/a"),
        ] {
            assert_eq!(wanted(&request(method, target, "", "")), Some(Wanted::Hyper), "{method} {target}");
        }
        assert_eq!(wanted("GET /v1/stock/a HTTP/1.0\r\n\r\n"), Some(Wanted::Hyper));
        assert_eq!(wanted("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Some(Wanted::Hyper));
    }
}
