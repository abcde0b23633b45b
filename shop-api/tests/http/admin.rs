//! `/v1/admin/...`: what operators take out of a node, and look into

use crate::shop::Shop;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tower::ServiceExt;

#[tokio::test]
async fn one_backup_export_or_archive_is_taken_from_a_node_at_a_time() {
    let shop = Shop::open().await;
    // More than waits for a reader: whoever reads no further keeps it from ending.
    let attributes = json!({"text": "x".repeat(4_000)});
    let put = |at: usize| json!({"key": format!("put-{at}"), "method": "PUT", "path": format!("/v1/items/i-{at}"), "body": {"attributes": attributes}});
    let commands: Vec<Value> = (0..600).map(put).collect();
    let outcomes =
        shop.write_with("POST", "/v1/batch", &[], json!({"commands": commands})).await.is(200).body;
    assert!(outcomes["outcomes"].as_array().unwrap().iter().all(|outcome| outcome["status"] == 201));
    let request = axum::http::Request::get("/v1/admin/export").body(axum::body::Body::empty()).unwrap();
    let unread = stockroom_shop_api::router(shop.api.clone()).oneshot(request).await.unwrap();
    for path in ["/v1/admin/export", "/v1/admin/backup", "/v1/admin/log?after=0"] {
        let refused = shop.get(path).await.refused(429, "backup_running");
        assert_eq!((&refused.body["definite"], &refused.body["retryable"]), (&json!(true), &json!(true)));
        assert!(!refused.header("retry-after").is_empty());
    }
    drop(unread);
    let deadline = Instant::now() + Duration::from_secs(10);
    while shop.get("/v1/admin/backup").await.status != 200 {
        assert!(Instant::now() < deadline, "it outlived its caller");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_log_is_shown_entry_by_entry_and_command_by_command() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let order = json!({"id": "A-1", "lines": [{"sku": "mug", "quantity": 2}]});
    shop.write("POST", "/v1/orders", "the-key", order).await.is(201);
    let all = shop.get("/v1/admin/log/entries?from=0").await.is(200).body;
    let items = all["items"].as_array().unwrap();
    let indexes: Vec<u64> = items.iter().map(|item| item["index"].as_u64().unwrap()).collect();
    let last = all["log"]["last_index"].as_u64().unwrap();
    assert_eq!(indexes, (all["log"]["first_index"].as_u64().unwrap()..=last).collect::<Vec<_>>());
    assert_eq!((&all["node_id"], &all["next_from"]), (&json!(1), &Value::Null));
    let members = items.iter().find(|item| item["kind"] == "members").unwrap();
    assert_eq!((&members["voters"], &members["members"][0]["id"]), (&json!([[1]]), &json!(1)));
    let placed = items.iter().find(|item| item["counts"]["place_order"] == 1).unwrap();
    assert_eq!((&placed["kind"], &placed["state"]), (&json!("commands"), &json!("applied")));
    assert_eq!(
        placed["commands"],
        json!([{"key": "the-key", "command": "place_order", "fields":
            {"id": "A-1", "lines": [{"sku": "mug", "location": "main", "quantity": 2}]}}])
    );
    let index = &placed["index"];
    let counted =
        shop.get(&format!("/v1/admin/log/entries?from={index}&to={index}&commands=0")).await.is(200).body;
    assert_eq!(
        (&counted["items"][0]["counts"]["place_order"], &counted["items"][0]["commands"]),
        (&json!(1), &json!([]))
    );
    assert_eq!(counted["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_long_log_comes_in_pages_and_the_newest_entries_come_first_where_none_is_named() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10), ("cup", 10), ("pot", 10)]).await;
    let newest = shop.get("/v1/admin/log/entries?limit=2").await.is(200).body;
    let last = newest["log"]["last_index"].as_u64().unwrap();
    let indexes = |page: &Value| -> Vec<u64> {
        page["items"].as_array().unwrap().iter().map(|item| item["index"].as_u64().unwrap()).collect()
    };
    assert_eq!(indexes(&newest), [last - 1, last]);
    let (mut from, mut seen) = (1, Vec::new());
    loop {
        let path = format!("/v1/admin/log/entries?from={from}&to={}&limit=2", last - 1);
        let page = shop.get(&path).await.is(200).body;
        assert!(page["items"].as_array().unwrap().len() <= 2);
        seen.extend(indexes(&page));
        let Some(next) = page["next_from"].as_u64() else { break };
        from = next;
    }
    assert_eq!(seen, (1..last).collect::<Vec<_>>());
    // What is yet to come is nothing, and no mistake.
    let none = shop.get(&format!("/v1/admin/log/entries?from={}", last + 100)).await.is(200).body;
    assert_eq!((&none["items"], &none["next_from"]), (&json!([]), &Value::Null));
    for bad in ["from=x", "from=-1", "to=+1", "limit=0", "limit=1001", "commands=1001"] {
        shop.get(&format!("/v1/admin/log/entries?{bad}")).await.refused(400, "invalid_parameter");
    }
    shop.get("/v1/admin/log/entries?after=1").await.refused(400, "unknown_parameter");
}

#[tokio::test]
async fn a_snapshot_is_written_when_somebody_asks_for_it() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let before = shop.get("/v1/admin/snapshot").await.is(200).body;
    assert_eq!((&before["node_id"], &before["snapshot"]), (&json!(1), &Value::Null));
    let applied = before["log"]["applied_index"].as_u64().unwrap();
    let create = async || shop.write_with("POST", "/v1/admin/snapshot", &[], json!({})).await.is(200).body;
    let begun = create().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    let now = loop {
        let now = shop.get("/v1/admin/snapshot").await.is(200).body;
        if now["snapshot"]["log_index"].as_u64() >= Some(applied) && now["writing_index"].is_null() {
            break now;
        }
        assert!(Instant::now() < deadline, "{begun} {now}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let bytes = |name: &str| now["snapshot"][name].as_u64().unwrap();
    assert!(
        bytes("own_bytes") > 0 && bytes("bytes") >= bytes("own_bytes") && bytes("age_ms") < 30_000,
        "{now}"
    );
    assert!(now["snapshot"]["written_at"].as_str().unwrap().ends_with('Z'), "{now}");
    // Nothing was applied since: it is as it is, and nothing is written.
    assert_eq!(create().await["writing_index"], Value::Null);
    shop.write_with("POST", "/v1/admin/snapshot", &[], json!({"now": true}))
        .await
        .refused(400, "unknown_field");
}
