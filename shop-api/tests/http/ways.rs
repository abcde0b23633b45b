//! Two ways lead through the one door: the router's, and the short one of requests that are whole. All other
//! tests take the short one where it can be taken; here both are held against each other.

use crate::shop::{Answer, Shop};
use serde_json::{Value, json};

const JSON: (&str, &str) = ("content-type", "application/json");
const ID: (&str, &str) = ("x-request-id", "the-same");

/// What an answer says, but for what each way adds for its transport, and how long ago the leader was heard.
fn said(answer: &Answer) -> (u16, Vec<(String, String)>, Value) {
    let skip = ["content-length", "date", "stockroom-staleness-ms"];
    let mut headers: Vec<(String, String)> = answer
        .headers
        .iter()
        .filter(|(name, _)| !skip.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort();
    (answer.status, headers, answer.body.clone())
}

async fn same(shop: &Shop, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> u16 {
    let headers = [headers, &[ID]].concat();
    let short = shop.by_short_way(method, path, &headers, body.as_bytes()).await.expect("a call of the shop");
    let long = shop.by_router(method, path, &headers, body.to_owned()).await;
    assert_eq!(said(&short), said(&long), "{method} {path}");
    short.status
}

#[tokio::test]
async fn reads_and_refusals_are_the_same_by_both_ways() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 5), ("a%b", 0)]).await;
    let order = json!({"lines": [{"sku": "mug", "quantity": 1}]}).to_string();
    let level = |name| [("Stockroom-Consistency", name)];
    for (method, path, headers, body, status) in [
        ("GET", "/v1/items/mug", &[][..], "", 200),
        ("GET", "/v1/items/mug", &[("If-None-Match", "\"1\"")], "", 304),
        ("GET", "/v1/items/a%25b", &[], "", 200),
        ("GET", "/v1/items/none", &[], "", 404),
        ("GET", "/v1/items?limit=1", &[], "", 200),
        ("GET", "/v1/items?limit=0", &[], "", 400),
        ("GET", "/v1/stock/mug", &level("stale"), "", 200),
        ("GET", "/v1/stock/mug", &level("soon"), "", 400),
        ("GET", "/v1/stock/mug", &[level("stale")[0], level("stale")[0]], "", 400),
        ("GET", "/v1/stock/mug", &[("accept", "text/html")], "", 406),
        ("GET", "/v1/stock?sku=mug&sku=none", &[], "", 422),
        ("GET", "/v1/outcomes/none", &[], "", 404),
        ("POST", "/v1/orders", &[JSON], &order, 400),
        ("POST", "/v1/orders", &[("idempotency-key", "k")], &order, 415),
        ("POST", "/v1/orders", &[("idempotency-key", "a b"), JSON], &order, 400),
        ("POST", "/v1/orders", &[("idempotency-key", "k"), JSON], "", 400),
        ("POST", "/v1/orders?x=1", &[("idempotency-key", "k"), JSON], &order, 400),
        ("POST", "/v1/batch", &[JSON], r#"{"commands":[]}"#, 422),
    ] {
        assert_eq!(same(&shop, method, path, headers, body).await, status, "{method} {path} {headers:?}");
    }
}

#[tokio::test]
async fn a_replay_by_the_other_way_is_a_replay() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 5)]).await;
    for (key, quantity, status) in [("few", 2, 201), ("many", 20, 409)] {
        let body = json!({"lines": [{"sku": "mug", "quantity": quantity}]}).to_string();
        let headers = [("Idempotency-Key", key), JSON, ID];
        let first = shop
            .by_short_way("POST", "/v1/orders", &headers, body.as_bytes())
            .await
            .expect("a call of the shop");
        assert!(first.status == status && !first.replayed(), "{}", first.text());
        assert_eq!(same(&shop, "POST", "/v1/orders", &headers[..2], &body).await, status);
        let again = shop.by_router("POST", "/v1/orders", &headers, body).await;
        assert!(again.replayed() && again.bytes == first.bytes, "{}", again.text());
    }
}
