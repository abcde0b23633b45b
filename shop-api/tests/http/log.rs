//! What the log says of requests, and what the runbook says of the log.

use crate::shop::Shop;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Whatever is logged: level, target, and the fields as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, String, String)>>>);

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (level, target) = (*event.metadata().level(), event.metadata().target().to_owned());
        self.0.lock().unwrap().push((level, target, fields.0));
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

#[tokio::test]
async fn the_filter_that_the_runbook_names_shows_every_request() {
    let runbook = include_str!("../../../deploy/RUNBOOK.md");
    let filter = runbook.split("log_filter = \"").nth(1).and_then(|rest| rest.split('"').next());
    let shown = filter.and_then(|filter| filter.split(',').find_map(|part| part.strip_suffix("=debug")));
    let shown = shown.expect("a filter in the runbook that has requests in it");
    let shop = Shop::open().await;
    let log = Log::default();
    let guard = tracing::subscriber::set_default(log.clone());
    shop.get_with("/v1/items/no", &[("x-request-id", "find-me")]).await.refused(404, "item_not_found");
    drop(guard);
    let seen = log.0.lock().unwrap();
    let of_request = |level: Level| {
        let mine = |(at, _, fields): &&(Level, String, String)| *at == level && fields.contains("find-me");
        seen.iter().filter(mine).map(|(_, target, _)| target.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(of_request(Level::DEBUG), [shown, shown], "why it was refused, and that it was answered");
    assert_eq!(of_request(Level::INFO), [""; 0], "refusals come by the ten thousand a second");
}
