//! `/openapi.json` and `/docs`: what callers may rely on, as a document and as a page.

use crate::answer::{Answer, JSON};
use crate::codes::Code;
use crate::headers::{Headers, Name};
use crate::openapi;
use crate::problem::Problem;
use bytes::Bytes;
use flate2::read::DeflateDecoder;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::LazyLock;
use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let text = serde_json::to_vec_pretty(&openapi::document()).expect("a JSON value is JSON");
    text.into()
});

pub(crate) fn openapi() -> Answer {
    Answer::new(200, JSON, DOCUMENT.clone())
}

/// Swagger UI with nothing from the internet: no fonts, no validator, no CDN.
const PAGE: &str = r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stockroom API</title>
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<style>body { margin: 0 } .swagger-ui .topbar { display: none }</style>
</head>
<body>
<noscript>This page needs JavaScript. The API is described in <a href="/openapi.json">/openapi.json</a>.</noscript>
<div id="api"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script>
const show = (spec) => { window.ui = SwaggerUIBundle({
  spec,
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  tryItOutEnabled: true,
  requestSnippetsEnabled: true,
  // A fresh key for each try, so that a second click is a second write.
  requestInterceptor: (request) => {
    if (request.method !== "GET" && !request.headers["Idempotency-Key"]) {
      request.headers["Idempotency-Key"] = "docs-" + Date.now() + "-" + Math.random().toString(36).slice(2);
    }
    return request;
  },
}); };
fetch("/openapi.json").then((answer) => answer.json()).then((spec) => {
  // Here the page sends one where the field is left empty.
  spec.components.parameters.IdempotencyKey.required = false;
  show(spec);
});
</script>
</body>
</html>
"##;

pub(crate) fn page() -> Answer {
    Answer::new(200, "text/html; charset=utf-8", PAGE)
}

/// The files the page loads, and their types.
const FILES: [(&str, &str); 3] = [
    ("swagger-ui.css", "text/css; charset=utf-8"),
    ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    ("favicon-32x32.png", "image/png"),
];

pub(crate) fn file(name: &str, headers: &Headers<'_>) -> Result<Answer, Problem> {
    let found = FILES.iter().find(|(file, _)| *file == name);
    let Some(((_, content_type), member)) = found.and_then(|file| Some((file, MEMBERS.get(name)?))) else {
        return Err(Problem::new(Code::RouteNotFound, format!("there is no /docs/{name}")));
    };
    let Member::Deflated { gzip, .. } = member else {
        return Ok(Answer::new(200, content_type, member.plain()));
    };
    if headers.list(Name::AcceptEncoding).any(|encoding| encoding.contains("gzip")) {
        return Ok(Answer { gzip: true, ..Answer::new(200, content_type, gzip.clone()) });
    }
    Ok(Answer::new(200, content_type, member.plain()))
}

/// A file of the archive.
enum Member {
    Stored(Bytes),
    /// Browsers take the archive's own compressed bytes, wrapped as gzip.
    Deflated {
        raw: &'static [u8],
        gzip: Bytes,
    },
}

impl Member {
    fn plain(&self) -> Bytes {
        match self {
            Member::Stored(bytes) => bytes.clone(),
            Member::Deflated { raw, .. } => {
                let mut bytes = Vec::new();
                match DeflateDecoder::new(*raw).read_to_end(&mut bytes) {
                    Ok(_) => bytes.into(),
                    Err(error) => unreachable!("a file inside this binary does not inflate: {error}"),
                }
            }
        }
    }
}

/// Files of the zip archive that the vendored crate carries, by name without folder.
static MEMBERS: LazyLock<BTreeMap<&'static str, Member>> =
    LazyLock::new(|| members(SWAGGER_UI_VENDORED).expect("the archive inside this binary is whole"));

fn members(zip: &'static [u8]) -> Option<BTreeMap<&'static str, Member>> {
    let u16_at = |at: usize| Some(usize::from(u16::from_le_bytes(zip.get(at..at + 2)?.try_into().ok()?)));
    let u32_at = |at: usize| Some(u32::from_le_bytes(zip.get(at..at + 4)?.try_into().ok()?) as usize);
    // The end record: its signature, then where the directory is (APPNOTE.TXT, section 4.3.16).
    let end = zip.windows(4).rposition(|window| window == b"PK\x05\x06")?;
    let (count, mut at) = (u16_at(end + 10)?, u32_at(end + 16)?);
    let mut members = BTreeMap::new();
    for _ in 0..count {
        let (method, crc, packed) = (u16_at(at + 10)?, u32_at(at + 16)?, u32_at(at + 20)?);
        let (size, name_length, header) = (u32_at(at + 24)?, u16_at(at + 28)?, u32_at(at + 42)?);
        let name = std::str::from_utf8(zip.get(at + 46..at + 46 + name_length)?).ok()?;
        at += 46 + name_length + u16_at(at + 30)? + u16_at(at + 32)?;
        let Some((folder, file)) = name.rsplit_once('/') else { continue };
        if folder.split('/').skip(1).ne(["dist"]) || !FILES.iter().any(|(wanted, _)| *wanted == file) {
            continue;
        }
        let start = header + 30 + u16_at(header + 26)? + u16_at(header + 28)?;
        let raw = zip.get(start..start + packed)?;
        let member = match method {
            0 => Member::Stored(Bytes::from_static(raw)),
            8 => Member::Deflated { raw, gzip: gzip(raw, crc as u32, size as u32) },
            _ => return None,
        };
        members.insert(file, member);
    }
    Some(members)
}

/// A gzip stream (RFC 1952) around deflated bytes.
fn gzip(raw: &[u8], crc: u32, size: u32) -> Bytes {
    let mut bytes = Vec::with_capacity(raw.len() + 18);
    bytes.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    bytes.extend_from_slice(raw);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_page_is_in_the_binary() {
        for (name, _) in FILES {
            assert!(PAGE.contains(&format!("\"/docs/{name}\"")), "{name}");
            let plain = MEMBERS[name].plain();
            assert!(!plain.is_empty(), "{name}");
            if let Member::Deflated { gzip, .. } = &MEMBERS[name] {
                let mut again = Vec::new();
                flate2::read::GzDecoder::new(&gzip[..]).read_to_end(&mut again).unwrap();
                assert_eq!(again, plain, "{name}");
            }
        }
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        assert!(!PAGE.contains("http://") && !PAGE.contains("https://"));
    }
}
