//! The read levels: what a request asks for, and what the answer says it got.

use crate::answer::Answer;
use crate::codes::Code;
use crate::door::Asked;
use crate::headers::{self, Headers, Name};
use crate::problem::{Extra, Problem};
use base64::engine::{Engine, general_purpose::URL_SAFE_NO_PAD};
use stockroom_raft::Cluster;
use stockroom_storage::reader::View;
use tokio::time::Instant;

/// What an answer shows, and who gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Everything in the answer is of this applied entry.
    pub log_index: u64,
    /// The leader that decided, or the node that was read.
    pub node_id: u64,
    /// Of reads below linearizable, where the node knows.
    pub staleness_ms: Option<u64>,
}

/// How fresh a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Not older than anything that was answered before the request came.
    Linearizable,
    /// Not older than this log index.
    Session(u64),
    /// Not older than this, in ms.
    Bounded(u64),
    /// As this node has it.
    Stale,
}

impl Level {
    /// What the headers ask for. `session` is the token that came along.
    pub fn asked(headers: &Headers<'_>, session: Option<u64>) -> Result<Self, Problem> {
        let bound = headers::integer(headers, Name::MaxStalenessMs, 0)?;
        match headers::text(headers, Name::Consistency)? {
            None | Some("linearizable") => Ok(Level::Linearizable),
            Some("session") => Ok(Level::Session(session.unwrap_or(0))),
            Some("stale") => Ok(Level::Stale),
            Some("bounded") => bound.map(Level::Bounded).ok_or_else(|| {
                let detail = "`Stockroom-Consistency: bounded` needs `Stockroom-Max-Staleness-Ms`";
                Problem::new(Code::InvalidHeader, detail).at("Stockroom-Max-Staleness-Ms")
            }),
            Some(_) => {
                let detail = "must be linearizable, session, bounded or stale";
                Err(Problem::new(Code::InvalidHeader, detail).at("Stockroom-Consistency"))
            }
        }
    }

    /// Waits until this node may answer. Afterwards any newer view will do as well.
    pub async fn reach(self, cluster: &Cluster, deadline: Instant) -> Result<Option<u64>, Problem> {
        match self {
            Level::Linearizable => {
                cluster.read_index(deadline).await?;
                return Ok(None);
            }
            Level::Session(needed) => {
                let reader = cluster.reader();
                if reader.applied().fingerprint.log_index < needed
                    && !reader.wait_applied(needed, deadline).await
                {
                    let applied = reader.applied().fingerprint.log_index;
                    let detail = format!("this node has applied {applied}, the session needs {needed}");
                    return Err(Problem::new(Code::Behind, detail)
                        .with("applied_index", Extra::Count(applied))
                        .with("needed_index", Extra::Count(needed)));
                }
            }
            Level::Bounded(_) | Level::Stale => {}
        }
        let staleness_ms = cluster.staleness_ms();
        if let Level::Bounded(most) = self {
            match staleness_ms {
                Some(staleness) if staleness <= most => {}
                Some(staleness) => {
                    let detail = format!("this node may be {staleness} ms behind, asked for at most {most}");
                    return Err(Problem::new(Code::TooStale, detail)
                        .with("staleness_ms", Extra::Count(staleness))
                        .with("most", Extra::Count(most)));
                }
                None => {
                    let detail = "this node cannot know how far it is behind";
                    return Err(Problem::new(Code::TooStale, detail).with("most", Extra::Count(most)));
                }
            }
        }
        Ok(staleness_ms)
    }
}

/// Reads a few rows, in place.
pub(crate) async fn point<T>(
    cluster: &Cluster,
    level: Level,
    deadline: Instant,
    read: impl FnOnce(&View<'_>) -> Result<T, Problem>,
) -> Result<(T, Shown), Problem> {
    let staleness_ms = level.reach(cluster, deadline).await?;
    let (found, shown) = look(cluster, staleness_ms, read)?;
    settle(cluster, shown.log_index, deadline).await?;
    Ok((found, shown))
}

/// Applied may run ahead of this node's own log. What an answer shows waits until it would survive
/// a power loss here, or a later read of this node could show less.
async fn settle(cluster: &Cluster, log_index: u64, deadline: Instant) -> Result<(), Problem> {
    if cluster.reader().wait_durable(log_index, deadline).await {
        return Ok(());
    }
    let detail = format!("this node has not synced entry {log_index} to its log in time");
    Err(Problem::new(Code::Behind, detail).with("needed_index", Extra::Count(log_index)))
}

/// Reads many rows and renders them, on a thread that may block; rendered once the view is gone.
pub(crate) async fn scan<T>(
    asked: &Asked<'_>,
    read: impl FnOnce(&View<'_>) -> Result<T, Problem> + Send + 'static,
    render: impl FnOnce(T) -> Vec<u8> + Send + 'static,
) -> Result<Answer, Problem> {
    let staleness_ms = asked.level.reach(asked.cluster, asked.deadline).await?;
    let cluster = asked.cluster.clone();
    let work = move || {
        let (found, shown) = look(&cluster, staleness_ms, read)?;
        Ok::<_, Problem>((render(found), shown))
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => {
            let (body, shown) = result?;
            settle(asked.cluster, shown.log_index, asked.deadline).await?;
            Ok(Answer::json(body).shown(shown))
        }
        Err(error) => {
            tracing::error!(%error, "a read ended without an answer");
            Err(Problem::new(Code::Internal, "the read ended without an answer"))
        }
    }
}

/// One request, one view: everything in the answer is of the same applied index.
fn look<T>(
    cluster: &Cluster,
    staleness_ms: Option<u64>,
    read: impl FnOnce(&View<'_>) -> Result<T, Problem>,
) -> Result<(T, Shown), Problem> {
    let view = cluster.reader().view()?;
    let shown = Shown { log_index: view.log_index(), node_id: cluster.node_id(), staleness_ms };
    match read(&view) {
        Ok(value) => Ok((value, shown)),
        Err(problem) => Err(problem.shown(shown)),
    }
}

const TOKEN_VERSION: u8 = 1;
const TOKEN_BYTES: usize = 1 + 16 + 8;
/// Characters of a printed token: 25 bytes in base 64 without padding.
const TOKEN_CHARS: usize = 34;

/// A `Stockroom-Session` token, printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionToken([u8; TOKEN_CHARS]);

impl SessionToken {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("base 64 is ASCII")
    }
}

/// What the holder of a token has seen of which cluster.
pub(crate) fn print_session(cluster_id: u128, log_index: u64) -> SessionToken {
    let mut bytes = [0; TOKEN_BYTES];
    bytes[0] = TOKEN_VERSION;
    bytes[1..17].copy_from_slice(&cluster_id.to_be_bytes());
    bytes[17..].copy_from_slice(&log_index.to_be_bytes());
    let mut token = [0; TOKEN_CHARS];
    URL_SAFE_NO_PAD.encode_slice(bytes, &mut token).expect("25 bytes are 34 characters of base 64");
    SessionToken(token)
}

/// The log index of a token of this cluster.
pub(crate) fn parse_session(token: &str, cluster_id: u128) -> Result<u64, Problem> {
    let wrong = |why: &'static str| Problem::new(Code::InvalidSession, why).at("Stockroom-Session");
    let mut bytes = [0; TOKEN_BYTES + 2];
    if token.len() != TOKEN_CHARS || URL_SAFE_NO_PAD.decode_slice(token, &mut bytes) != Ok(TOKEN_BYTES) {
        return Err(wrong("it is malformed"));
    }
    let (version, rest) = (bytes[0], &bytes[1..TOKEN_BYTES]);
    let (id, index) = rest.split_at(16);
    if version != TOKEN_VERSION {
        return Err(wrong("it is of a version that this node does not know"));
    }
    if id != cluster_id.to_be_bytes() {
        return Err(wrong("it is of another cluster"));
    }
    Ok(index.iter().fold(0, |index, byte| (index << 8) | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(cluster_id: u128, log_index: u64) -> String {
        print_session(cluster_id, log_index).as_str().to_owned()
    }

    #[test]
    fn a_session_token_reads_back_in_its_own_cluster_only() {
        let printed = token(7, 0x0102_0304_0506_0708);
        assert_eq!(parse_session(&printed, 7).unwrap(), 0x0102_0304_0506_0708);
        assert_eq!(parse_session(&printed, 8).unwrap_err().code(), Code::InvalidSession);
        assert!(printed.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{printed}");
    }

    #[test]
    fn a_malformed_token_is_refused() {
        let printed = token(7, 1);
        let other_version = format!("B{}", &printed[1..]);
        for wrong in
            ["", "x", &printed[1..], &format!("{printed}A"), &printed.replace('A', "!"), &other_version]
        {
            assert_eq!(parse_session(wrong, 7).unwrap_err().code(), Code::InvalidSession, "{wrong:?}");
        }
    }

    fn level(pairs: &[(&'static str, &str)]) -> Result<Level, Code> {
        let headers = pairs.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        Level::asked(&headers, Some(5)).map_err(|problem| problem.code())
    }

    #[test]
    fn the_four_levels_are_what_the_headers_say() {
        const LEVEL: &str = "stockroom-consistency";
        const BOUND: &str = "stockroom-max-staleness-ms";
        assert_eq!(level(&[]), Ok(Level::Linearizable));
        assert_eq!(level(&[(LEVEL, "linearizable")]), Ok(Level::Linearizable));
        assert_eq!(level(&[(LEVEL, "session")]), Ok(Level::Session(5)));
        assert_eq!(level(&[(LEVEL, "stale")]), Ok(Level::Stale));
        assert_eq!(level(&[(LEVEL, "bounded"), (BOUND, "250")]), Ok(Level::Bounded(250)));
        assert_eq!(level(&[(LEVEL, "bounded")]), Err(Code::InvalidHeader));
        assert_eq!(level(&[(LEVEL, "bounded"), (BOUND, "soon")]), Err(Code::InvalidHeader));
        assert_eq!(level(&[(LEVEL, "eventual")]), Err(Code::InvalidHeader));
        assert_eq!(level(&[(LEVEL, "stale"), (LEVEL, "session")]), Err(Code::InvalidHeader));
    }
}
