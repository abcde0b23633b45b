//! The read levels, and what answers say of themselves.

use crate::shop::Shop;
use serde_json::json;

const LEVEL: &str = "stockroom-consistency";

#[tokio::test]
async fn every_level_answers_and_says_what_it_shows() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let written = shop.put("/v1/items/mug", json!({})).await.is(200);
    let index: u64 = written.header("stockroom-applied-index").parse().unwrap();
    let token = written.header("stockroom-session").to_owned();
    for headers in [
        vec![],
        vec![(LEVEL, "linearizable")],
        vec![(LEVEL, "session")],
        vec![(LEVEL, "session"), ("stockroom-session", &token)],
        vec![(LEVEL, "bounded"), ("stockroom-max-staleness-ms", "60000")],
        vec![(LEVEL, "stale")],
    ] {
        for path in
            ["/v1/items/mug", "/v1/stock/mug", "/v1/stock?sku=mug", "/v1/items", "/v1/movements?sku=mug"]
        {
            let read = shop.get_with(path, &headers).await.is(200);
            let shown: u64 = read.header("stockroom-applied-index").parse().unwrap();
            assert!(shown >= index, "{path} {headers:?}: one node is never behind itself");
            assert_eq!(read.header("stockroom-served-by"), "1");
            let below = headers.iter().any(|(name, value)| *name == LEVEL && *value != "linearizable");
            assert_eq!(
                read.header("stockroom-staleness-ms").parse::<u64>().is_ok(),
                below,
                "{path} {headers:?}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_not_a_level_is_refused() {
    let shop = Shop::open().await;
    for headers in [
        vec![(LEVEL, "eventual")],
        vec![(LEVEL, "")],
        vec![(LEVEL, "bounded")],
        vec![(LEVEL, "bounded"), ("stockroom-max-staleness-ms", "-1")],
        vec![(LEVEL, "stale"), (LEVEL, "stale")],
        vec![("stockroom-timeout-ms", "0")],
        vec![("stockroom-timeout-ms", "soon")],
    ] {
        shop.get_with("/v1/items", &headers).await.refused(400, "invalid_header");
    }
}

/// A token of this cluster for an index that nobody has applied.
fn ahead(token: &str) -> String {
    // The index is the last of the 25 bytes; within base 64 its lowest bits are the last characters.
    let (head, _) = token.split_at(token.len() - 10);
    format!("{head}H_______-A").replace("-A", "_w")
}

#[tokio::test]
async fn a_session_is_waited_for_and_not_answered_from_before() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 1)]).await;
    let token = ahead(shop.get("/v1/items/mug").await.header("stockroom-session"));
    let session = |token: &str| vec![(LEVEL, "session".to_owned()), ("stockroom-session", token.to_owned())];
    let send = async |headers: Vec<(&str, String)>, timeout: &str| {
        let mut headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.push(("stockroom-timeout-ms", timeout));
        shop.get_with("/v1/items/mug", &headers).await
    };
    let behind = send(session(&token), "50").await.refused(503, "behind");
    assert!(behind.body["needed_index"].as_u64() > behind.body["applied_index"].as_u64());
    assert_eq!(behind.header("stockroom-session"), token, "what was seen is not forgotten");
    for bad in ["x", &token[1..], &format!("{token}A"), &token.replace('A', "B")] {
        send(session(bad), "50").await.refused(400, "invalid_session");
    }
}

#[tokio::test]
async fn a_bound_of_nothing_is_too_much_to_ask_or_kept() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 1)]).await;
    let headers = [(LEVEL, "bounded"), ("stockroom-max-staleness-ms", "0")];
    let answer = shop.get_with("/v1/items/mug", &headers).await;
    match answer.status {
        200 => assert_eq!(answer.header("stockroom-staleness-ms"), "0"),
        _ => drop(answer.refused(503, "too_stale")),
    }
}

#[tokio::test]
async fn pages_and_parameters_are_checked() {
    let shop = Shop::open().await;
    for (query, code) in [
        ("limit=0", "invalid_parameter"),
        ("limit=1001", "invalid_parameter"),
        ("limit=1&limit=2", "invalid_parameter"),
        ("page=2", "unknown_parameter"),
        ("cursor=x", "invalid_cursor"),
        ("cursor=", "invalid_cursor"),
    ] {
        shop.get(&format!("/v1/items?{query}")).await.refused(400, code);
    }
    shop.get("/v1/items?limit=1000").await.is(200);
    shop.get("/v1/items/mug?verbose=1").await.refused(400, "unknown_parameter");
    shop.write("POST", "/v1/orders?dry_run=1", "k", json!({})).await.refused(400, "unknown_parameter");
}
