//! Requests as the bytes that are sent.

use super::workload::{Level, Line};
use std::io::Write as _;

/// Writes requests of one client into a buffer that is used again and again.
pub struct Writer {
    /// `host:port`, as the header `Host` has it.
    host: String,
    /// All SKUs and keys of a run begin with this.
    prefix: String,
    /// Header lines that every write has.
    common: String,
    body: Vec<u8>,
    bytes: Vec<u8>,
}

/// Writing to a `Vec` does not fail.
const TO_MEMORY: &str = "a Vec takes all that is written";

impl Writer {
    /// For requests to `host:port`. The server is told of a deadline other than its own.
    pub fn new(host: &str, prefix: &str, deadline_ms: Option<u64>) -> Self {
        let deadline = deadline_ms.map(|ms| format!("stockroom-timeout-ms: {ms}\r\n")).unwrap_or_default();
        Writer {
            host: host.to_owned(),
            prefix: prefix.to_owned(),
            common: format!("content-type: application/json\r\n{deadline}"),
            body: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// The request written last.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `POST /v1/orders`.
    pub fn order(&mut self, key: &str, lines: &[Line]) {
        self.body.clear();
        self.body.extend_from_slice(b"{\"lines\":");
        write_lines(&mut self.body, &self.prefix, lines);
        self.body.push(b'}');
        self.post("/v1/orders", Some(key));
    }

    /// `POST /v1/reservations`.
    pub fn reserve(&mut self, key: &str, ttl_ms: u64, lines: &[Line]) {
        self.body.clear();
        write!(self.body, "{{\"ttl_ms\":{ttl_ms},\"lines\":").expect(TO_MEMORY);
        write_lines(&mut self.body, &self.prefix, lines);
        self.body.push(b'}');
        self.post("/v1/reservations", Some(key));
    }

    /// `POST /v1/reservations/{id}/confirm`.
    pub fn confirm(&mut self, key: &str, id: &str) {
        self.body.clear();
        self.body.extend_from_slice(b"{}");
        self.post(&format!("/v1/reservations/{id}/confirm"), Some(key));
    }

    /// `POST /v1/batch` of orders, each with its key.
    pub fn batch<'a>(&mut self, orders: impl Iterator<Item = (&'a str, &'a [Line])>) {
        self.body.clear();
        self.body.extend_from_slice(b"{\"commands\":[");
        for (i, (key, lines)) in orders.enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(
                self.body,
                "{comma}{{\"key\":\"{key}\",\"method\":\"POST\",\"path\":\"/v1/orders\",\"body\":{{\"lines\":"
            )
            .expect(TO_MEMORY);
            write_lines(&mut self.body, &self.prefix, lines);
            self.body.extend_from_slice(b"}}");
        }
        self.body.extend_from_slice(b"]}");
        self.post("/v1/batch", None);
    }

    /// `GET /v1/stock/{sku}`.
    pub fn stock(&mut self, sku: u32, level: Level, max_staleness_ms: u64, session: &[u8]) {
        let Writer { bytes, prefix, host, .. } = self;
        bytes.clear();
        write!(
            bytes,
            "GET /v1/stock/{prefix}-{sku} HTTP/1.1\r\nhost: {host}\r\nstockroom-consistency: {}\r\n",
            level.name()
        )
        .expect(TO_MEMORY);
        match level {
            Level::Bounded => {
                write!(bytes, "stockroom-max-staleness-ms: {max_staleness_ms}\r\n").expect(TO_MEMORY);
            }
            Level::Session if !session.is_empty() => {
                bytes.extend_from_slice(b"stockroom-session: ");
                bytes.extend_from_slice(session);
                bytes.extend_from_slice(b"\r\n");
            }
            _ => {}
        }
        bytes.extend_from_slice(b"\r\n");
    }

    fn post(&mut self, path: &str, key: Option<&str>) {
        let Writer { bytes, body, host, common, .. } = self;
        bytes.clear();
        write!(bytes, "POST {path} HTTP/1.1\r\nhost: {host}\r\n{common}").expect(TO_MEMORY);
        if let Some(key) = key {
            write!(bytes, "idempotency-key: {key}\r\n").expect(TO_MEMORY);
        }
        write!(bytes, "content-length: {}\r\n\r\n", body.len()).expect(TO_MEMORY);
        bytes.extend_from_slice(body);
    }
}

fn write_lines(out: &mut Vec<u8>, prefix: &str, lines: &[Line]) {
    for (i, line) in lines.iter().enumerate() {
        let open = if i == 0 { '[' } else { ',' };
        write!(out, "{open}{{\"sku\":\"{prefix}-{}\",\"quantity\":{}}}", line.sku, line.quantity)
            .expect(TO_MEMORY);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [Line; 2] = [Line { sku: 7, quantity: 1 }, Line { sku: 12, quantity: 30 }];

    fn text(writer: &Writer) -> &str {
        std::str::from_utf8(writer.bytes()).expect("requests are ASCII")
    }

    #[test]
    fn an_order_is_these_bytes() {
        let mut writer = Writer::new("h:1", "b1", None);
        writer.order("k", &LINES);
        let body = r#"{"lines":[{"sku":"b1-7","quantity":1},{"sku":"b1-12","quantity":30}]}"#;
        let head = "POST /v1/orders HTTP/1.1\r\nhost: h:1\r\ncontent-type: application/json\r\nidempotency-key: k\r\n";
        assert_eq!(text(&writer), format!("{head}content-length: {}\r\n\r\n{body}", body.len()));
    }

    #[test]
    fn a_batch_is_json_with_a_key_for_each_order() {
        let mut writer = Writer::new("h:1", "b1", Some(900));
        writer.batch([("k1", &LINES[..1]), ("k2", &LINES[..])].into_iter());
        let (head, body) = text(&writer).split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains("stockroom-timeout-ms: 900") && !head.contains("idempotency-key"));
        let body: serde_json::Value = serde_json::from_str(body).expect("the body is JSON");
        assert_eq!(body["commands"][1]["key"], "k2");
        assert_eq!(body["commands"][1]["body"]["lines"][1]["quantity"], 30);
    }

    #[test]
    fn a_read_names_its_level_and_what_goes_with_it() {
        let mut writer = Writer::new("h:1", "b1", None);
        writer.stock(3, Level::Session, 50, b"tok");
        assert!(text(&writer).starts_with("GET /v1/stock/b1-3 HTTP/1.1\r\n"));
        assert!(text(&writer).contains("stockroom-consistency: session\r\nstockroom-session: tok\r\n\r\n"));
        writer.stock(3, Level::Bounded, 50, b"tok");
        assert!(
            text(&writer)
                .ends_with("stockroom-consistency: bounded\r\nstockroom-max-staleness-ms: 50\r\n\r\n")
        );
    }
}
