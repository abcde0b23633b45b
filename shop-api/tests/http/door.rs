//! Headers, bodies and paths: what the door refuses before anyone decides.

use crate::shop::{Answer, Shop};
use serde_json::{Value, json};
use stockroom_shop_api::Limits;

const JSON: (&str, &str) = ("content-type", "application/json");

async fn send(shop: &Shop, body: &str) -> Answer {
    let key = shop.new_key();
    shop.raw("POST", "/v1/orders", &[("idempotency-key", &key), JSON], body.to_owned()).await
}

#[tokio::test]
async fn bodies_of_the_wrong_shape_are_refused_where_it_lies() {
    let shop = Shop::open().await;
    for (body, code, param) in [
        ("", "empty_body", None),
        (" \n ", "empty_body", None),
        ("{", "invalid_json", None),
        ("{}x", "invalid_json", None),
        ("\u{feff}{}", "invalid_json", None),
        (r#"{"lines":[{"sku":"a","quantity":1,}]}"#, "invalid_json", None),
        ("[]", "invalid_type", None),
        ("null", "invalid_type", None),
        (r#"{"lines":{}}"#, "invalid_type", Some("lines")),
        (r#"{"lines":[["a",null,1]]}"#, "invalid_type", Some("lines[0]")),
        (r#"{"lines":[{"sku":1,"quantity":1}]}"#, "invalid_type", Some("lines[0].sku")),
        (r#"{"lines":[{"sku":"a","quantity":"2"}]}"#, "invalid_type", Some("lines[0].quantity")),
        (r#"{"lines":[{"sku":"a"}]}"#, "missing_field", Some("lines[0].quantity")),
        (r#"{"line":[]}"#, "unknown_field", Some("line")),
        (r#"{"lines":[{"sku":"a","qty":1}]}"#, "unknown_field", Some("lines[0].qty")),
        (r#"{"lines":[],"lines":[]}"#, "duplicate_field", Some("lines")),
        (r#"{"lines":[{"sku":"a","sku":"b","quantity":1}]}"#, "duplicate_field", Some("lines[0].sku")),
        (r#"{"metadata":{"a":"1","a":"2"},"lines":[]}"#, "duplicate_field", Some("metadata.a")),
        (r#"{"reservation_id":null}"#, "missing_field", Some("lines")),
    ] {
        let answer = send(&shop, body).await.refused(400, code);
        assert_eq!(answer.body["param"].as_str(), param, "{body}: {}", answer.text());
    }
}

/// The schemas count characters, as JSON Schema has it.
#[tokio::test]
async fn texts_are_as_long_as_their_bytes_and_the_document_says_so() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let adjust = async |reason: String| {
        shop.post("/v1/stock/adjust", json!({"sku": "mug", "delta": 1, "reason": reason})).await
    };
    adjust("é".repeat(256)).await.is(200);
    adjust("é".repeat(257)).await.refused(422, "text_too_long");
    let schemas = &crate::shop::DOCUMENT["components"]["schemas"];
    for name in ["Text", "Metadata"] {
        assert!(schemas[name]["description"].as_str().is_some_and(|text| text.contains("bytes")), "{name}");
    }
}

#[tokio::test]
async fn values_that_cannot_be_are_refused_where_they_lie() {
    let shop = Shop::open().await;
    let line = |field: &str, value: Value| {
        let mut line = json!({"sku": "a", "quantity": 1});
        line[field] = value;
        json!({"lines": [{"sku": "a", "quantity": 1}, line]})
    };
    let order = |field: &str, value: Value| {
        let mut order = json!({"lines": [{"sku": "a", "quantity": 1}]});
        order[field] = value;
        order
    };
    for (body, code, param) in [
        (line("quantity", json!(0)), "invalid_value", "lines[1].quantity"),
        (line("quantity", json!(-1)), "invalid_value", "lines[1].quantity"),
        (line("quantity", json!(1.5)), "invalid_value", "lines[1].quantity"),
        (line("quantity", json!(2.0)), "invalid_value", "lines[1].quantity"),
        (line("quantity", json!(1_000_000_001)), "invalid_value", "lines[1].quantity"),
        (line("quantity", json!(1e30)), "invalid_value", "lines[1].quantity"),
        (line("amount_minor", json!(-1)), "invalid_value", "lines[1].amount_minor"),
        (line("amount_minor", json!(9_007_199_254_740_992_u64)), "invalid_value", "lines[1].amount_minor"),
        (line("sku", json!("")), "invalid_value", "lines[1].sku"),
        (line("sku", json!("a/b")), "invalid_value", "lines[1].sku"),
        (line("sku", json!("käse")), "invalid_value", "lines[1].sku"),
        (line("sku", json!("x".repeat(129))), "id_too_long", "lines[1].sku"),
        (line("location", json!("x".repeat(65))), "id_too_long", "lines[1].location"),
        (line("location", json!("a b")), "invalid_value", "lines[1].location"),
        (order("id", json!("a b")), "invalid_value", "id"),
        (order("id", json!("o0000000000000000")), "invalid_value", "id"),
        (order("customer_id", json!("")), "invalid_value", "customer_id"),
        (order("currency", json!("eur")), "unknown_currency", "currency"),
        (order("currency", json!("XXQ")), "unknown_currency", "currency"),
        (order("pay_by", json!("2099-01-01")), "invalid_value", "pay_by"),
        (order("pay_by", json!("2099-01-01T00:00:00")), "invalid_value", "pay_by"),
        (order("pay_by", json!("2099-01-01T00:00:00+02:00")), "invalid_value", "pay_by"),
        (order("pay_by", json!("2099-02-30T00:00:00Z")), "invalid_value", "pay_by"),
        (order("pay_by", json!("2099-01-01T00:00:00.0001Z")), "invalid_value", "pay_by"),
        (order("pay_by", json!("1960-01-01T00:00:00Z")), "invalid_value", "pay_by"),
        (order("lines", json!([])), "invalid_value", "lines"),
        (order("lines", vec![json!({"sku": "a", "quantity": 1}); 501].into()), "too_many_lines", "lines"),
        (order("metadata", json!({"k": "v".repeat(257)})), "metadata_too_long", "metadata.k"),
        (
            order("metadata", (0..17).map(|i| (i.to_string(), json!(""))).collect()),
            "too_much_metadata",
            "metadata",
        ),
    ] {
        let answer = send(&shop, &body.to_string()).await.refused(422, code);
        assert_eq!(answer.body["param"], param, "{body}: {}", answer.text());
    }
    let adjust = json!({"sku": "a", "delta": 1, "reason": "x".repeat(513)});
    shop.post("/v1/stock/adjust", adjust).await.refused(422, "text_too_long");
    shop.put("/v1/items/a", json!({"name": ""})).await.refused(422, "invalid_value");
    shop.put("/v1/items/a", json!({"attributes": {"x": "y".repeat(4096)}}))
        .await
        .refused(422, "attributes_too_large");
    for ttl_ms in [99_u64, 2_592_000_001] {
        let hold = json!({"ttl_ms": ttl_ms, "lines": [{"sku": "a", "quantity": 1}]});
        shop.post("/v1/reservations", hold).await.refused(422, "invalid_value");
    }
}

#[tokio::test]
async fn attributes_may_nest_only_so_deep_and_name_a_field_once() {
    let shop = Shop::open().await;
    let put = async |body: String| {
        let key = shop.new_key();
        shop.raw("PUT", "/v1/items/a", &[("idempotency-key", &key), JSON], body).await
    };
    let nested =
        |lists: usize| format!(r#"{{"attributes":{{"a":{}1{}}}}}"#, "[".repeat(lists), "]".repeat(lists));
    put(nested(30)).await.is(201);
    put(nested(31)).await.refused(400, "too_deep");
    put(nested(100_000)).await.refused(400, "too_deep");
    put(r#"{"attributes":{"a":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"{{{{{{{"}}"#.into()).await.is(200);
    put(r#"{"attributes":{"a":{"b":1,"b":2}}}"#.into()).await.refused(400, "duplicate_field");
    put(r#"{"attributes":{"a":123456789012345678901234567890}}"#.into()).await.refused(400, "invalid_type");
    put(r#"{"attributes":[]}"#.into()).await.refused(400, "invalid_type");
}

#[tokio::test]
async fn bodies_may_be_only_so_large() {
    let limits = Limits { body_bytes: 1_000, batch_body_bytes: 2_000, ..Limits::default() };
    let shop = Shop::with_limits(limits).await;
    send(&shop, &" ".repeat(1_000)).await.refused(400, "empty_body");
    let large = send(&shop, &" ".repeat(1_001)).await.refused(413, "body_too_large");
    assert_eq!(large.body["most"], 1_000);
    shop.raw("POST", "/v1/batch", &[JSON], " ".repeat(2_000)).await.refused(400, "empty_body");
    shop.raw("POST", "/v1/batch", &[JSON], " ".repeat(2_001)).await.refused(413, "body_too_large");
}

#[tokio::test]
async fn a_body_of_unknown_length_is_cut_off_and_one_that_stays_away_is_not_waited_for() {
    use axum::body::{Body, Bytes};
    use tower::ServiceExt;
    let shop = Shop::with_limits(Limits { body_bytes: 1_000, ..Limits::default() }).await;
    let router = stockroom_shop_api::router(shop.api.clone());
    let request = |body: Body, timeout_ms: &str| {
        axum::http::Request::post("/v1/orders")
            .header("idempotency-key", "k")
            .header("content-type", "application/json")
            .header("stockroom-timeout-ms", timeout_ms)
            .body(body)
            .unwrap()
    };
    let chunk = || Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 600]));
    let two = Body::from_stream(futures::stream::iter([chunk(), chunk()]));
    let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    let broken = Body::from_stream(futures::stream::iter([chunk(), Err(std::io::Error::other("gone"))]));
    for (body, timeout_ms, status, code) in [
        (two, "5000", 413, "body_too_large"),
        (broken, "5000", 400, "body_incomplete"),
        (never, "50", 400, "body_incomplete"),
    ] {
        let response = router.clone().oneshot(request(body, timeout_ms)).await.unwrap();
        assert_eq!(response.status(), status, "{code}");
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let problem: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(problem["code"], code);
    }
}

#[tokio::test]
async fn writes_need_a_key_and_json() {
    let shop = Shop::open().await;
    let post = async |headers: &[(&str, &str)]| shop.raw("POST", "/v1/orders", headers, "{}").await;
    let missing = post(&[JSON]).await.refused(400, "missing_idempotency_key");
    assert_eq!(missing.body["param"], "Idempotency-Key");
    for bad in ["", "a b", &"x".repeat(129)] {
        post(&[JSON, ("idempotency-key", bad)]).await.refused(400, "invalid_idempotency_key");
    }
    post(&[JSON, ("idempotency-key", "a"), ("idempotency-key", "b")])
        .await
        .refused(400, "invalid_idempotency_key");
    post(&[("idempotency-key", "a")]).await.refused(415, "unsupported_media_type");
    post(&[("idempotency-key", "a"), ("content-type", "text/plain")])
        .await
        .refused(415, "unsupported_media_type");
    let gzip = [("idempotency-key", "a"), JSON, ("content-encoding", "gzip")];
    post(&gzip).await.refused(415, "unsupported_media_type");
    post(&[("idempotency-key", "a"), JSON, ("if-match", "\"1\"")]).await.refused(400, "invalid_header");
    for path in ["/v1/items/x", "/v1/orders/x/metadata"] {
        let method = if path.ends_with("metadata") { "PATCH" } else { "PUT" };
        shop.raw(method, path, &[JSON], "{}").await.refused(400, "missing_idempotency_key");
    }
}

#[tokio::test]
async fn answers_are_json_or_nothing() {
    let shop = Shop::open().await;
    let get = async |accept: &str| shop.get_with("/v1/items", &[("accept", accept)]).await;
    for good in ["*/*", "application/json", "text/html, application/*;q=0.5"] {
        get(good).await.is(200);
    }
    get("text/html").await.refused(406, "not_acceptable");
    get("application/json;q=0").await.refused(406, "not_acceptable");
}

#[tokio::test]
async fn what_is_not_there_and_what_does_not_fit_are_problems_too() {
    let shop = Shop::open().await;
    for path in ["/", "/v1", "/v1/order", "/v1/orders/", "/v1/orders/x/explode", "/orders", "/docs/none.js"] {
        shop.get(path).await.refused(404, "route_not_found");
    }
    for (method, path, allow) in [
        ("DELETE", "/v1/orders/x", "GET, HEAD"),
        ("PATCH", "/v1/orders", "POST, GET, HEAD"),
        ("GET", "/v1/orders/x/pay", "POST"),
        ("OPTIONS", "/v1/items/x", "PUT, GET, HEAD"),
        ("POST", "/livez", "GET, HEAD"),
    ] {
        let answer = shop.raw(method, path, &[], "").await.refused(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
    shop.stocked(&[("receive", 3)]).await;
    assert_eq!(shop.counters("receive").await, [3, 0, 0, 3], "a SKU may be called like a path");
}

#[tokio::test]
async fn a_request_id_is_taken_or_made() {
    let shop = Shop::open().await;
    let taken = shop.get_with("/v1/items/none", &[("x-request-id", "abc-1")]).await.is(404);
    assert_eq!((taken.header("x-request-id"), &taken.body["request_id"]), ("abc-1", &json!("abc-1")));
    let first = shop.get_with("/livez", &[("x-request-id", "a b")]).await;
    let second = shop.get("/livez").await;
    assert_eq!(first.header("x-request-id").len(), 32);
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
}
