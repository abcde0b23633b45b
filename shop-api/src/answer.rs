//! Successful answers, before the door adds the headers that all answers have.

use crate::consistency::Shown;
use bytes::Bytes;

pub(crate) const JSON: &str = "application/json";

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    Whole(Bytes),
    /// Made while it is sent.
    Stream(axum::body::Body),
}

impl<B: Into<Bytes>> From<B> for Body {
    fn from(bytes: B) -> Self {
        Body::Whole(bytes.into())
    }
}

/// What a call answers.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Body,
    /// An item's version.
    pub etag: Option<u64>,
    /// Path of what was created.
    pub location: Option<String>,
    pub replayed: bool,
    pub shown: Option<Shown>,
    /// The body is compressed with gzip.
    pub gzip: bool,
}

impl Answer {
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Body>) -> Self {
        Answer {
            status,
            content_type,
            body: body.into(),
            etag: None,
            location: None,
            replayed: false,
            shown: None,
            gzip: false,
        }
    }

    pub fn json(body: Vec<u8>) -> Self {
        Answer::new(200, JSON, body)
    }

    pub fn shown(mut self, shown: Shown) -> Self {
        self.shown = Some(shown);
        self
    }

    pub fn etag(mut self, version: u64) -> Self {
        self.etag = Some(version);
        self
    }
}
