//! HTTP/1.1 as lean as it gets: one keep-alive connection, one request under way, bodies by `content-length`.
//!
//! The generator shares the machine with what it measures, so its own CPU counts. A request is bytes made
//! beforehand and one `write`; an answer is one `read` as a rule, and a head parsed in place by httparse.
//! Against the bare server with 256 connections, three turns each on a busy two-core machine: 11 to 12 us of CPU
//! for a request made, sent and answered; a load generator on hyper's `http1` connections, which also made a
//! UUID and a `serde_json` value for each, 16 to 22 us.

use std::{io, ops::Range, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// Headers that an answer may have.
const MAX_HEADERS: usize = 48;
/// A head that is still not whole after this many bytes is no answer of ours.
const MAX_HEAD_BYTES: usize = 32 << 10;
/// A batch of 1,000 orders of many lines answers in a few MiB.
const MAX_BODY_BYTES: usize = 64 << 20;
/// Room that each connection starts with: an answer to an order has about 800 bytes.
const FIRST_BUFFER_BYTES: usize = 2048;

/// A connection, and the last answer that came by it.
pub struct Connection<S = TcpStream> {
    stream: S,
    buffer: Vec<u8>,
    answer: Answer,
}

/// Where the parts of an answer lie in the buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: Range<usize>,
    session: Range<usize>,
    close: bool,
}

impl Connection<TcpStream> {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// Nobody listens there, or nobody answers in this time: [`io::ErrorKind::TimedOut`].
    pub async fn open(host: &str, timeout: Duration) -> io::Result<Self> {
        let stream = tokio::time::timeout(timeout, TcpStream::connect(host)).await??;
        stream.set_nodelay(true)?;
        Ok(Connection::new(stream))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Over a stream that is connected.
    pub fn new(stream: S) -> Self {
        Connection { stream, buffer: vec![0; FIRST_BUFFER_BYTES], answer: Answer::default() }
    }

    /// Sends a request and waits for the whole answer.
    ///
    /// # Errors
    /// The connection ended, or what came is no answer: the connection is of no further use, and whether the
    /// request was carried out is not known.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        let answer = loop {
            if filled == self.buffer.len() {
                self.buffer.resize(filled * 2, 0);
            }
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            if let Some(answer) = parse(&self.buffer[..filled])? {
                break answer;
            }
        };
        if filled > answer.body.end {
            return Err(invalid("more bytes than the answer has"));
        }
        if self.buffer.len() < answer.body.end {
            self.buffer.resize(answer.body.end, 0);
        }
        self.stream.read_exact(&mut self.buffer[filled..answer.body.end]).await?;
        self.answer = answer;
        Ok(self.answer.status)
    }

    /// The body of the last answer.
    pub fn body(&self) -> &[u8] {
        &self.buffer[self.answer.body.clone()]
    }

    /// The session token of the last answer; empty where it had none.
    pub fn session(&self) -> &[u8] {
        &self.buffer[self.answer.session.clone()]
    }

    /// Whether the server takes another request on this connection.
    pub fn goes_on(&self) -> bool {
        !self.answer.close
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// The answer that begins here; `None` while its head is not whole.
fn parse(bytes: &[u8]) -> io::Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).map_err(|error| invalid(&error.to_string()))? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial if bytes.len() > MAX_HEAD_BYTES => {
            return Err(invalid("the head has no end"));
        }
        httparse::Status::Partial => return Ok(None),
    };
    let mut answer = Answer { status: response.code.unwrap_or_default(), ..Answer::default() };
    let mut length = None;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            length =
                std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse::<usize>().ok());
        } else if header.name.eq_ignore_ascii_case("connection") {
            answer.close = header.value.eq_ignore_ascii_case(b"close");
        } else if header.name.eq_ignore_ascii_case("stockroom-session") {
            let from = header.value.as_ptr() as usize - bytes.as_ptr() as usize;
            answer.session = from..from + header.value.len();
        }
    }
    let length = length.ok_or_else(|| invalid("an answer without content-length"))?;
    if length > MAX_BODY_BYTES {
        return Err(invalid("the body is too long"));
    }
    answer.body = head..head + length;
    Ok(Some(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "HTTP/1.1 201 Created\r\nContent-Length: 7\r\nStockroom-Session: tok\r\n\r\n{\"a\":1}";

    /// Sends `answer` through a pipe that holds `room` bytes, so that it comes in pieces.
    async fn exchange(
        answer: Vec<u8>,
        room: usize,
    ) -> (io::Result<u16>, Connection<tokio::io::DuplexStream>) {
        let (ours, mut theirs) = tokio::io::duplex(room);
        let server = tokio::spawn(async move {
            let mut request = [0; 4];
            theirs.read_exact(&mut request).await.expect("the request is sent");
            // The client may hang up on what makes no sense.
            let _ = theirs.write_all(&answer).await;
        });
        let mut connection = Connection::new(ours);
        let result = connection.exchange(b"PING").await;
        drop(server);
        (result, connection)
    }

    #[tokio::test]
    async fn an_answer_in_pieces_of_any_size_is_read_whole() {
        for room in 1..=OK.len() + 1 {
            let (result, connection) = exchange(OK.into(), room).await;
            assert_eq!(result.unwrap(), 201, "in pieces of {room}");
            assert_eq!((connection.body(), connection.session()), (&b"{\"a\":1}"[..], &b"tok"[..]));
            assert!(connection.goes_on());
        }
    }

    #[tokio::test]
    async fn a_body_larger_than_the_buffer_is_read_whole() {
        let body: Vec<u8> = (0..3_000_000u32).map(|i| b'a' + (i % 23) as u8).collect();
        let mut answer =
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len())
                .into_bytes();
        answer.extend(&body);
        let (result, connection) = exchange(answer, 60_000).await;
        assert_eq!(result.unwrap(), 200);
        assert!(connection.body() == body && !connection.goes_on());
    }

    #[tokio::test]
    async fn what_is_no_whole_answer_is_an_error() {
        let cut = OK[..OK.len() - 1].to_owned();
        let long = format!("{OK}x");
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(2 * MAX_HEAD_BYTES));
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned();
        let huge = "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n".to_owned();
        for bad in [cut, long, endless, chunked, huge, "SSH-2.0-OpenSSH\r\n\r\n".into()] {
            let (result, _) = exchange(bad.clone().into_bytes(), 1 << 20).await;
            assert!(result.is_err(), "{}", &bad[..bad.len().min(60)]);
        }
    }
}
