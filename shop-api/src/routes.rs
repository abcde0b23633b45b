//! The table of routes, and how a method and a path find theirs.

use crate::codes::Code;
use crate::problem::Problem;
use crate::{Call, ROUTES};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::sync::LazyLock;

/// What a call needs from the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A command under an `Idempotency-Key`; may stand in a batch.
    Write,
    /// Many commands, each with its own key.
    Batch,
    /// Settles a key, so it has none itself.
    Settle,
    /// Reads at a level.
    Read,
    /// Changes the cluster; needs no key, as to ask for the same again changes nothing more.
    Admin,
    /// About this node; needs it to be a member.
    Local,
    /// Stands at the root and answers always.
    Root,
}

/// One row of the table.
pub(crate) struct Route {
    pub call: Call,
    /// Label in metrics and `operationId` in the OpenAPI document.
    pub name: &'static str,
    pub method: &'static str,
    /// With at most one `{parameter}`.
    pub path: &'static str,
    pub kind: Kind,
}

/// Makes [`Call`] and [`ROUTES`] of one table.
macro_rules! routes {
    ($($call:ident $name:literal $method:ident $path:literal $kind:ident)*) => {
        /// Every call there is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Call { $($call),* }

        /// Every call's route, in the order of [`Call`].
        pub(crate) const ROUTES: &[routes::Route] = &[$(routes::Route {
            call: Call::$call,
            name: $name,
            method: stringify!($method),
            path: $path,
            kind: routes::Kind::$kind,
        }),*];
    };
}
pub(crate) use routes;

impl Call {
    pub fn route(self) -> &'static Route {
        &ROUTES[self as usize]
    }
}

/// A route and the parameter of its path, percent-decoded.
#[derive(Debug, Clone)]
pub(crate) struct Target<'p> {
    pub call: Call,
    pub parameter: Cow<'p, str>,
}

/// Most segments that any route has, and one more to notice longer paths.
const MOST_SEGMENTS: usize = 6;

static SEGMENTS: LazyLock<Vec<Vec<&str>>> =
    LazyLock::new(|| ROUTES.iter().map(|route| route.path.split('/').skip(1).collect()).collect());

/// Finds the route of a request, or of a command in a batch. 404 or 405 where there is none.
pub(crate) fn resolve<'p>(method: &str, path: &'p str) -> Result<Target<'p>, Problem> {
    // Whatever answers GET answers HEAD; the server drops the body.
    let method = if method == "HEAD" { "GET" } else { method };
    let mut segments = [""; MOST_SEGMENTS];
    let mut count = 0;
    for (slot, segment) in segments.iter_mut().zip(path.split('/').skip(1)) {
        *slot = segment;
        count += 1;
    }
    let segments = &segments[..count];
    let mut allowed: Vec<&str> = Vec::new();
    for (route, pattern) in ROUTES.iter().zip(SEGMENTS.iter()) {
        let Some(parameter) = matching(pattern, segments) else { continue };
        if route.method == method {
            let parameter = percent_decode_str(parameter).decode_utf8_lossy();
            return Ok(Target { call: route.call, parameter });
        }
        if !allowed.contains(&route.method) {
            allowed.push(route.method);
        }
    }
    if allowed.is_empty() {
        return Err(Problem::new(Code::RouteNotFound, format!("there is no {path}")));
    }
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    let allowed = allowed.join(", ");
    Err(Problem::new(Code::MethodNotAllowed, format!("{path} takes {allowed}")).allow(allowed))
}

/// The parameter (empty where the pattern has none) if the segments fit the pattern.
fn matching<'p>(pattern: &[&str], segments: &[&'p str]) -> Option<&'p str> {
    if pattern.len() != segments.len() {
        return None;
    }
    let mut parameter = "";
    for (form, segment) in pattern.iter().zip(segments) {
        if form.starts_with('{') {
            if segment.is_empty() {
                return None;
            }
            parameter = segment;
        } else if form != segment {
            return None;
        }
    }
    Some(parameter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(method: &str, path: &str) -> Result<(Call, String), Code> {
        match resolve(method, path) {
            Ok(target) => Ok((target.call, target.parameter.into_owned())),
            Err(problem) => Err(problem.code()),
        }
    }

    #[test]
    fn every_route_finds_itself() {
        for (i, route) in ROUTES.iter().enumerate() {
            assert_eq!(route.call as usize, i);
            assert!(SEGMENTS[i].len() < MOST_SEGMENTS, "{}", route.path);
            let path = route.path.replace(['{', '}'], "x");
            assert_eq!(find(route.method, &path).unwrap().0, route.call, "{path}");
        }
    }

    #[test]
    fn parameters_are_percent_decoded() {
        assert_eq!(find("GET", "/v1/items/a%2Fb%20c").unwrap().1, "a/b c");
        assert_eq!(find("GET", "/v1/items/%FF").unwrap().1, "\u{fffd}");
    }

    #[test]
    fn a_sku_may_be_called_like_a_verb() {
        assert_eq!(find("GET", "/v1/stock/receive").unwrap(), (Call::GetStock, "receive".into()));
        assert_eq!(find("POST", "/v1/stock/receive").unwrap().0, Call::Receive);
    }

    #[test]
    fn paths_that_are_not_there_and_methods_that_do_not_fit_are_told_apart() {
        for path in ["/", "/v1", "/v1/items/", "/v1/item", "/items", "/v1/orders/x/y/z/a/b/c", "*", ""] {
            assert_eq!(find("GET", path), Err(Code::RouteNotFound), "{path}");
        }
        let problem = resolve("DELETE", "/v1/items/x").unwrap_err();
        assert_eq!(problem.allowed_methods(), Some("PUT, GET, HEAD"));
        assert_eq!(find("HEAD", "/v1/items/x").unwrap().0, Call::GetItem);
    }
}
