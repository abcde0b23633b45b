//! Idempotency keys, and what became of them.

use crate::shop::Shop;
use serde_json::{Value, json};

#[tokio::test]
async fn the_same_key_and_request_hear_the_same_answer_again() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let writes = [
        ("PUT", "/v1/items/cup", json!({}), 201),
        ("POST", "/v1/stock/receive", json!({"lines": [{"sku": "mug", "quantity": 5}]}), 200),
        ("POST", "/v1/orders", json!({"id": "o-1", "lines": [{"sku": "mug", "quantity": 1}]}), 201),
        ("POST", "/v1/orders", json!({"lines": [{"sku": "mug", "quantity": 99}]}), 409),
        ("POST", "/v1/orders", json!({"lines": [{"sku": "no", "quantity": 1}]}), 422),
        ("POST", "/v1/orders/o-1/ship", json!({}), 409),
        ("POST", "/v1/orders/no/ship", json!({}), 404),
        ("PATCH", "/v1/orders/o-1/metadata", json!({"metadata": {"a": "b"}}), 200),
    ];
    let mut first = Vec::new();
    for (i, (method, path, body, status)) in writes.iter().enumerate() {
        let answer = shop.write(method, path, &format!("w-{i}"), body.clone()).await.is(*status);
        assert!(!answer.replayed());
        first.push(answer);
    }
    // Whatever happened in between: the answer is the one that was given.
    let stock = shop.counters("mug").await;
    for (i, (method, path, body, status)) in writes.iter().enumerate() {
        let again = shop.write(method, path, &format!("w-{i}"), body.clone()).await.is(*status);
        assert!(again.replayed(), "{method} {path}");
        assert_eq!(again.lasting(), first[i].lasting(), "{method} {path}");
        for header in ["stockroom-applied-index", "location", "etag"] {
            assert_eq!(again.header(header), first[i].header(header), "{method} {path}: {header}");
        }
    }
    assert_eq!(shop.counters("mug").await, stock);
}

#[tokio::test]
async fn a_key_stands_for_one_method_path_and_command() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10), ("cup", 10)]).await;
    let order = |sku: &str| json!({"lines": [{"sku": sku, "quantity": 1}]});
    shop.write("POST", "/v1/orders", "k", order("mug")).await.is(201);
    for (method, path, body) in [
        ("POST", "/v1/orders", order("cup")),
        ("POST", "/v1/stock/receive", order("mug")),
        ("POST", "/v1/reservations/x/cancel", json!({})),
        ("POST", "/v1/reservations/x/confirm", json!({})),
        ("POST", "/v1/orders/x/complete", json!({})),
        ("PUT", "/v1/items/mug", json!({})),
    ] {
        shop.write(method, path, "k", body).await.refused(422, "key_reused");
    }
    // Space, order of fields and a default that is spelt out do not make another command.
    let spelt = r#" { "lines" : [ {"quantity":1, "location":"main", "sku":"mug", "amount_minor":null} ], "id": null } "#;
    let headers = [("idempotency-key", "k"), ("content-type", "application/json")];
    assert!(shop.raw("POST", "/v1/orders", &headers, spelt).await.is(201).replayed());
}

#[tokio::test]
async fn what_was_refused_at_the_door_is_not_kept() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let bad = json!({"lines": [{"sku": "mug", "quantity": 0}]});
    shop.write("POST", "/v1/orders", "k", bad).await.refused(422, "invalid_value");
    shop.get("/v1/outcomes/k").await.refused(404, "unknown_key");
    let good = json!({"lines": [{"sku": "mug", "quantity": 1}]});
    shop.write("POST", "/v1/orders", "k", good).await.is(201);
}

#[tokio::test]
async fn an_outcome_is_what_was_answered() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let order = |quantity: u64| json!({"lines": [{"sku": "mug", "quantity": quantity}]});
    let placed = shop.write("POST", "/v1/orders", "a/b?c", order(1)).await.is(201);
    let refused = shop.write("POST", "/v1/orders", "no", order(11)).await.is(409);
    for (path, answer) in [("a%2Fb%3Fc", &placed), ("no", &refused)] {
        let mut kept = shop.get(&format!("/v1/outcomes/{path}")).await.is(200).body;
        assert_eq!(kept["status"], answer.status);
        assert_eq!(kept["log_index"].to_string(), answer.header("stockroom-applied-index"));
        if let Some(body) = kept["body"].as_object_mut() {
            body.remove("request_id");
        }
        assert_eq!(kept["body"], answer.lasting());
    }
    let unknown = shop.get("/v1/outcomes/never").await.refused(404, "unknown_key");
    assert!(unknown.body["next_steps"].to_string().contains("abandon"));
}

#[tokio::test]
async fn an_abandoned_key_can_never_pass_again() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let order = json!({"lines": [{"sku": "mug", "quantity": 1}]});
    let abandon =
        async |key: &str| shop.raw("POST", &format!("/v1/outcomes/{key}/abandon"), &[], "").await.is(200);
    let settled = abandon("k").await.body;
    assert_eq!((&settled["status"], &settled["body"]["code"]), (&json!(409), &json!("abandoned")));
    shop.write("POST", "/v1/orders", "k", order.clone()).await.refused(409, "abandoned");
    assert_eq!(shop.counters("mug").await, [10, 0, 0, 10]);
    let again = abandon("k").await.body;
    assert_eq!((&again["log_index"], &again["status"]), (&settled["log_index"], &json!(409)));
    assert_eq!(shop.get("/v1/outcomes/k").await.is(200).body["status"], 409);

    // Where there is an outcome, it stays, and abandoning answers it.
    for (key, quantity) in [("done", 1), ("refused", 99)] {
        let body: Value = json!({"lines": [{"sku": "mug", "quantity": quantity}]});
        let first = shop.write("POST", "/v1/orders", key, body.clone()).await;
        let settled = abandon(key).await.body;
        assert_eq!(settled["status"], first.status);
        assert_eq!(settled["body"]["id"], first.body["id"]);
        assert!(shop.write("POST", "/v1/orders", key, body).await.is(first.status).replayed());
    }
    shop.raw("POST", "/v1/outcomes/a%20b/abandon", &[], "").await.refused(422, "invalid_value");
}
