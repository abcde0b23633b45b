//! `/v1/cluster`, `/v1/audit` and the probes

use crate::shop::Shop;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use stockroom_shop_api::Limits;
use stockroom_storage::shop::version::SERVED;

#[tokio::test]
async fn the_cluster_shows_its_members_and_what_they_said() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 1)]).await;
    let cluster = shop.get("/v1/cluster").await.is(200).body;
    assert_eq!((&cluster["node_id"], &cluster["leader"]), (&json!(1), &json!(1)));
    let member = &cluster["members"][0];
    assert_eq!((&member["id"], &member["role"]), (&json!(1), &json!("voter")));
    let report = &member["report"];
    assert!(report["applied_index"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["digest"].as_str().unwrap().len(), 32);
    let newest = SERVED.newest.0;
    assert_eq!((&report["cluster_version"], &report["serves"]["newest"]), (&json!(1), &json!(newest)));
    assert_eq!((&cluster["cluster_version"], &cluster["turned_away"]), (&json!(1), &json!([])));
}

#[tokio::test]
async fn an_upgrade_with_nothing_to_raise_is_final_already() {
    let shop = Shop::open().await;
    let plan = shop.get("/v1/cluster/upgrade").await.is(200).body;
    assert_eq!(
        (&plan["already"], &plan["done"], &plan["blocked_by"]),
        (&json!(true), &json!(false), &json!([]))
    );
    assert_eq!((&plan["members"][0]["id"], &plan["members"][0]["answers"]), (&json!(1), &json!(true)));
    for _ in 0..2 {
        let done = shop.post("/v1/cluster/upgrade/finalize", json!({})).await.is(200).body;
        assert_eq!((&done["from"], &done["to"], &done["done"]), (&plan["to"], &plan["to"], &json!(true)));
    }
    shop.post("/v1/cluster/upgrade/finalize", json!({"to": 9})).await.refused(400, "unknown_field");
}

#[tokio::test]
async fn an_audit_streams_its_progress_and_ends_with_a_verdict() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    shop.post("/v1/orders", json!({"lines": [{"sku": "mug", "quantity": 2}]})).await.is(201);
    let answer = shop.raw("POST", "/v1/audit", &[], "").await.is(200);
    let lines: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (verdict, progress) = lines.split_last().unwrap();
    assert!(!progress.is_empty() && progress.iter().all(|line| line["progress"].is_object()), "{lines:?}");
    assert_eq!((&verdict["verdict"], &verdict["findings"]), (&json!("clean"), &json!([])));
    assert!(verdict["log_index"].as_u64().unwrap() > 0);
    // The permit is back: another one may run.
    shop.raw("POST", "/v1/audit", &[("accept", "application/x-ndjson")], "").await.is(200);
    shop.raw("POST", "/v1/audit", &[("accept", "application/json")], "").await.is(200);
    shop.raw("POST", "/v1/audit", &[("accept", "text/html")], "").await.refused(406, "not_acceptable");
}

#[tokio::test]
async fn an_audit_waits_for_the_index_at_which_nodes_are_compared() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let index: u64 = shop.get("/v1/items/mug").await.header("stockroom-applied-index").parse().unwrap();
    shop.put("/v1/items/mug", json!({})).await.is(200);
    let audit = async |body: Value| {
        shop.write_with("POST", "/v1/audit", &[("stockroom-timeout-ms", "100")], body).await
    };
    let answer = audit(json!({"at_index": index})).await.is(200);
    let verdict: Value = serde_json::from_str(answer.text().lines().last().unwrap()).unwrap();
    let shown = verdict["fingerprints"].as_array().unwrap();
    assert!(shown.iter().any(|fingerprint| fingerprint["log_index"] == index), "{verdict}");
    audit(json!({"at_index": index + 1_000_000})).await.refused(503, "behind");
    audit(json!({"at_index": -1})).await.refused(422, "invalid_value");
    audit(json!({"index": 1})).await.refused(400, "unknown_field");
}

#[tokio::test]
async fn one_audit_of_a_node_runs_at_a_time() {
    use tower::ServiceExt;
    let shop = Shop::open().await;
    let request = axum::http::Request::post("/v1/audit").body(axum::body::Body::empty()).unwrap();
    // As long as its answer is not read, it runs.
    let first = stockroom_shop_api::router(shop.api.clone()).oneshot(request).await.unwrap();
    shop.raw("POST", "/v1/audit", &[], "").await.refused(429, "audit_running");
    drop(first);
    until_an_audit_may_run(&shop).await;
}

/// The audit notices that its caller has gone, and ends.
async fn until_an_audit_may_run(shop: &Shop) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while shop.raw("POST", "/v1/audit", &[], "").await.status != 200 {
        assert!(Instant::now() < deadline, "the audit outlived its caller");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_node_that_is_no_member_says_why() {
    let shop = Shop::before_joining(Limits::default());
    assert_eq!(shop.get("/livez").await.is(200).text(), "ok\n");
    shop.api.waiting_for("no leader among 3 peers has answered yet");
    let ready = shop.get("/readyz").await.is(503);
    assert_eq!(ready.text(), "[-]member failed: no leader among 3 peers has answered yet\nnot ready\n");
    for path in ["/v1/items", "/v1/cluster", "/v1/orders/x"] {
        let refused = shop.get(path).await.refused(503, "not_a_member");
        assert_eq!(refused.body["detail"], "no leader among 3 peers has answered yet");
    }
    shop.put("/v1/items/x", json!({})).await.refused(503, "not_a_member");
    for path in ["/openapi.json", "/docs", "/metrics"] {
        shop.get(path).await.is(200);
    }
}

#[tokio::test]
async fn readiness_lists_its_checks() {
    let shop = Shop::open().await;
    assert_eq!(shop.get("/readyz").await.is(200).text(), "ok\n");
    let verbose = shop.get("/readyz?verbose").await.is(200);
    assert!(verbose.text().starts_with("[+]accepting ok\n"), "{}", verbose.text());
    let json = shop.get_with("/readyz", &[("accept", "application/json")]).await.is(200);
    assert_eq!(json.body["ready"], true);
}

#[tokio::test]
async fn a_draining_node_takes_no_new_writes_and_closes_connections() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 1)]).await;
    shop.api.set_draining();
    shop.put("/v1/items/x", json!({})).await.refused(503, "shutting_down");
    shop.write_with("POST", "/v1/batch", &[], json!({"commands": []})).await.refused(503, "shutting_down");
    shop.raw("POST", "/v1/outcomes/k/abandon", &[], "").await.refused(503, "shutting_down");
    let read = shop.get("/v1/items/mug").await.is(200);
    assert_eq!(read.header("connection"), "close");
    assert!(shop.get("/readyz").await.is(503).text().contains("[-]accepting failed"));
    shop.get("/livez").await.is(200);
}

#[tokio::test]
async fn metrics_are_whatever_the_node_renders() {
    let shop = Shop::open().await;
    shop.api.metrics(|| "stockroom_up 1\n".into());
    assert_eq!(shop.get("/metrics").await.is(200).text(), "stockroom_up 1\n");
}

#[tokio::test]
async fn a_backup_and_an_export_are_of_one_index_and_leave_nobody_waiting() {
    use tower::ServiceExt;
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let index: u64 = shop.get("/v1/items/mug").await.header("stockroom-applied-index").parse().unwrap();
    let backup = shop.get("/v1/admin/backup").await.is(200);
    assert_eq!(&backup.bytes[..8], b"STKBAK01");
    assert!(backup.header("stockroom-applied-index").parse::<u64>().unwrap() >= index);
    let stale = [("stockroom-consistency", "stale"), ("accept", "application/vnd.stockroom.backup")];
    shop.get_with("/v1/admin/backup", &stale).await.is(200);
    shop.get_with("/v1/admin/backup", &[("accept", "text/html")]).await.refused(406, "not_acceptable");
    shop.get("/v1/admin/backup?x=1").await.refused(400, "unknown_parameter");
    let export = shop.get("/v1/admin/export").await.is(200);
    let last: Value = serde_json::from_str(export.text().lines().last().unwrap()).unwrap();
    assert_eq!((&last["end"]["lines"]["items"], &last["end"]["lines"]["movements"]), (&json!(1), &json!(1)));
    let log = shop.get(&format!("/v1/admin/log?after={}", index - 1)).await.is(200);
    assert_eq!(&log.bytes[..8], b"STKLOG01");
    shop.get("/v1/admin/log").await.refused(400, "missing_parameter");
    shop.get("/v1/admin/log?after=x").await.refused(400, "invalid_parameter");
    shop.get("/v1/admin/log?after=1000000").await.refused(409, "log_purged");
    // Whoever goes away holds nobody up.
    let request = axum::http::Request::get("/v1/admin/export").body(axum::body::Body::empty()).unwrap();
    let first = stockroom_shop_api::router(shop.api.clone()).oneshot(request).await.unwrap();
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(10);
    while shop.get("/v1/admin/backup").await.status != 200 {
        assert!(Instant::now() < deadline, "it outlived its caller");
        tokio::task::yield_now().await;
    }
}
