//! `/v1/batch`

use crate::shop::{Answer, Shop};
use serde_json::{Value, json};
use stockroom_shop_api::Limits;

async fn batch(shop: &Shop, commands: Value) -> Answer {
    shop.write_with("POST", "/v1/batch", &[], json!({ "commands": commands })).await
}

fn place(key: &str, sku: &str, quantity: u64) -> Value {
    let body = json!({"lines": [{"sku": sku, "quantity": quantity}]});
    json!({"key": key, "method": "POST", "path": "/v1/orders", "body": body})
}

#[tokio::test]
async fn each_command_has_its_own_outcome_in_order() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let commands = json!([
        place("a", "mug", 1), place("b", "mug", 99), place("c", "no", 1),
        {"key": "d", "method": "PUT", "path": "/v1/items/50%25", "body": {}},
        {"key": "e", "method": "POST", "path": "/v1/stock/receive", "body": {"lines": [{"sku": "mug", "quantity": 1}]}},
        place("a", "mug", 1),
    ]);
    let answer = batch(&shop, commands).await.is(200);
    let outcomes = answer.body["outcomes"].as_array().unwrap();
    let seen: Vec<_> =
        outcomes.iter().map(|o| (o["key"].as_str().unwrap(), o["status"].as_u64().unwrap())).collect();
    assert_eq!(seen, [("a", 201), ("b", 409), ("c", 422), ("d", 201), ("e", 200), ("a", 201)]);
    assert_eq!(outcomes[1]["body"]["code"], "out_of_stock");
    assert_eq!(outcomes[3]["body"]["sku"], "50%");
    assert_eq!((&outcomes[0]["replayed"], &outcomes[5]["replayed"]), (&json!(false), &json!(true)));
    assert_eq!(outcomes[0]["body"], outcomes[5]["body"]);
    assert_eq!(shop.counters("mug").await, [11, 0, 1, 10]);

    // Alone and in a batch a command is the same command.
    let alone = json!({"lines": [{"sku": "mug", "quantity": 1}]});
    let again = shop.write("POST", "/v1/orders", "a", alone).await.is(201);
    assert!(again.replayed());
    assert_eq!(again.body, outcomes[0]["body"]);
    assert!(!answer.header("stockroom-session").is_empty());
}

#[tokio::test]
async fn what_is_wrong_with_one_command_does_not_refuse_the_others() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let bad = |path: &str, method: &str, body: Value| json!({"key": "k", "method": method, "path": path, "body": body});
    // Deeper than a body may be, and than any of what is around it.
    let deep = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!({"attributes": inner}));
    let commands = [
        (bad("/v1/items/deep", "PUT", deep(33)), 400, "too_deep"),
        (bad("/v1/items/deep", "PUT", deep(100)), 400, "too_deep"),
        (json!({"key": deep(100)}), 400, "too_deep"),
        (deep(100), 400, "too_deep"),
        (bad("/v1/orders", "POST", json!({"line": []})), 400, "unknown_field"),
        (bad("/v1/orders", "POST", json!({"lines": []})), 422, "invalid_value"),
        (bad("/v1/orders", "DELETE", json!({})), 405, "method_not_allowed"),
        (bad("/v1/orders", "GET", json!({})), 404, "route_not_found"),
        (bad("/v1/nothing", "POST", json!({})), 404, "route_not_found"),
        (bad("/v1/orders?x=1", "POST", json!({})), 404, "route_not_found"),
        (bad("/v1/batch", "POST", json!({"commands": []})), 404, "route_not_found"),
        (bad("/v1/outcomes/k/abandon", "POST", json!({})), 404, "route_not_found"),
        (bad("/v1/audit", "POST", json!({})), 404, "route_not_found"),
        (bad("/v1/orders", "BAD METHOD", json!({})), 422, "invalid_value"),
        (bad("/v1/orders", "POST", json!([])), 400, "invalid_type"),
        (json!({"key": "k", "method": "POST", "path": "/v1/orders"}), 400, "empty_body"),
        (
            json!({"key": "k", "method": "POST", "path": "/v1/orders", "body": {}, "x": 1}),
            400,
            "unknown_field",
        ),
        (
            json!({"key": "", "method": "POST", "path": "/v1/orders", "body": {}}),
            400,
            "invalid_idempotency_key",
        ),
        (json!({"method": "POST", "path": "/v1/orders", "body": {}}), 400, "missing_field"),
        (json!("order"), 400, "invalid_type"),
        (json!(["k", "POST", "/v1/orders", {}]), 400, "invalid_type"),
    ];
    let mut sent: Vec<Value> = commands.iter().map(|(command, ..)| command.clone()).collect();
    sent.push(place("good", "mug", 1));
    let body = json!({ "commands": sent }).to_string();
    // Not through `write`: the schema would not take these commands, and the batch does.
    let answer = unchecked(&shop, body).await;
    let outcomes = answer["outcomes"].as_array().unwrap();
    assert_eq!(outcomes.len(), sent.len());
    for ((command, status, code), outcome) in commands.iter().zip(outcomes) {
        let seen = (outcome["status"].as_u64().unwrap(), outcome["body"]["code"].as_str().unwrap());
        assert_eq!(seen, (*status, *code), "{command}: {outcome}");
    }
    assert_eq!(outcomes.last().unwrap()["status"], 201);
    // However deep: nothing that reads it takes a frame of the stack for a level.
    let (open, close) = ("[".repeat(500_000), "]".repeat(500_000));
    let answer =
        unchecked(&shop, format!(r#"{{"commands":[{open}{close},{{"key":"k","x":{open}{close}}}]}}"#)).await;
    let codes: Vec<_> = answer["outcomes"].as_array().unwrap().iter().map(|o| &o["body"]["code"]).collect();
    assert_eq!(codes, ["too_deep", "too_deep"]);
    shop.get("/v1/outcomes/k").await.refused(404, "unknown_key");
}

#[tokio::test]
async fn a_command_that_cannot_be_taken_now_says_when_to_send_it_again() {
    let shop = Shop::taking(1, Limits::default()).await;
    shop.stocked(&[("mug", 10)]).await;
    let commands = json!([place("a", "mug", 1), place("b", "mug", 1)]);
    let answer = batch(&shop, commands.clone()).await.is(200);
    let outcomes = &answer.body["outcomes"];
    assert_eq!((&outcomes[0]["status"], &outcomes[1]["status"]), (&json!(201), &json!(503)));
    let refused = &outcomes[1]["body"];
    assert_eq!((&refused["code"], &refused["retry_after_s"]), (&json!("overloaded"), &json!(1)));
    // An outcome has no headers.
    assert!(refused["next_steps"][0].as_str().unwrap().contains("`retry_after_s`"), "{refused}");
    let again = json!([commands[1]]);
    assert_eq!(batch(&shop, again).await.is(200).body["outcomes"][0]["status"], 201);
}

/// The answer's body, checked against the document; the request's is not.
async fn unchecked(shop: &Shop, body: String) -> Value {
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    let request = axum::http::Request::builder().method("POST").uri("/v1/batch");
    let request =
        request.header("content-type", "application/json").body(axum::body::Body::from(body)).unwrap();
    let response = stockroom_shop_api::router(shop.api.clone()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap();
    crate::shop::validate(&json!({"$ref": "#/components/schemas/BatchOutcomes"}), &body, "the outcomes");
    body
}

#[tokio::test]
async fn what_is_wrong_with_the_batch_refuses_all() {
    let shop = Shop::with_limits(Limits { batch_commands: 3, ..Limits::default() }).await;
    shop.stocked(&[("mug", 10)]).await;
    batch(&shop, json!([])).await.refused(422, "invalid_value");
    let four: Vec<Value> = (0..4).map(|i| place(&format!("k{i}"), "mug", 1)).collect();
    batch(&shop, four.into()).await.refused(422, "too_many_commands");
    batch(&shop, json!({})).await.refused(400, "invalid_type");
    let json = [("content-type", "application/json")];
    let broken = r#"{"commands":[{"key":"k","method":"POST","path":"/v1/orders","body":{]}"#;
    shop.raw("POST", "/v1/batch", &json, broken).await.refused(400, "invalid_json");
    shop.raw("POST", "/v1/batch", &json, r#"{"commands":[],"commands":[]}"#)
        .await
        .refused(400, "duplicate_field");
    shop.raw("POST", "/v1/batch", &json, "").await.refused(400, "empty_body");
    shop.raw("POST", "/v1/batch", &[], "{}").await.refused(415, "unsupported_media_type");
    assert_eq!(shop.counters("mug").await, [10, 0, 0, 10]);
}
