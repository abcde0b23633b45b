//! `/v1/reservations`: the table of the contract, cell by cell.

use crate::shop::Shop;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn try_body(id: &str, quantity: u64, ttl_ms: u64) -> Value {
    json!({"id": id, "ttl_ms": ttl_ms, "lines": [{"sku": "mug", "quantity": quantity}]})
}

async fn act(shop: &Shop, id: &str, action: &str) -> crate::shop::Answer {
    let body = if action == "extend" { json!({"ttl_ms": 60_000}) } else { json!({}) };
    shop.post(&format!("/v1/reservations/{id}/{action}"), body).await
}

#[tokio::test]
async fn a_hold_is_tried_confirmed_and_final() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let held = shop.post("/v1/reservations", try_body("r-1", 4, 60_000)).await.is(201);
    assert_eq!(held.header("location"), "/v1/reservations/r-1");
    assert_eq!((&held.body["status"], &held.body["ttl_ms"]), (&json!("held"), &json!(60_000)));
    assert_eq!(held.body["lines"], json!([{"sku": "mug", "location": "main", "quantity": 4}]));
    assert_eq!(shop.counters("mug").await, [10, 4, 0, 6]);

    // Under new keys: the reservation's own id says that it is the same.
    shop.post("/v1/reservations", try_body("r-1", 4, 60_000)).await.is(200);
    let taken = shop.post("/v1/reservations", try_body("r-1", 5, 60_000)).await.refused(409, "id_taken");
    assert_eq!(taken.body["id"], "r-1");
    act(&shop, "r-1", "extend").await.is(200);

    assert_eq!(act(&shop, "r-1", "confirm").await.is(200).body["status"], "confirmed");
    assert_eq!(shop.counters("mug").await, [6, 0, 0, 6], "the units left the room");
    act(&shop, "r-1", "confirm").await.is(200);
    assert_eq!(shop.counters("mug").await, [6, 0, 0, 6], "and only once");
    shop.post("/v1/reservations", try_body("r-1", 5, 60_000)).await.refused(409, "id_taken");
    let wrong = act(&shop, "r-1", "cancel").await.refused(409, "wrong_state");
    assert_eq!((&wrong.body["state"], &wrong.body["allowed"]), (&json!("confirmed"), &json!(["held"])));
    act(&shop, "r-1", "extend").await.refused(409, "wrong_state");
}

#[tokio::test]
async fn a_cancel_frees_and_one_before_its_try_is_remembered() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    shop.post("/v1/reservations", try_body("r-1", 4, 60_000)).await.is(201);
    assert_eq!(act(&shop, "r-1", "cancel").await.is(200).body["status"], "cancelled");
    assert_eq!(shop.counters("mug").await, [10, 0, 0, 10]);
    act(&shop, "r-1", "cancel").await.is(200);
    act(&shop, "r-1", "confirm").await.refused(409, "wrong_state");
    shop.post("/v1/reservations", try_body("r-1", 4, 60_000)).await.refused(409, "wrong_state");

    let remembered = act(&shop, "early", "cancel").await.is(200);
    assert_eq!((&remembered.body["status"], remembered.header("location")), (&json!("cancelled"), ""));
    shop.post("/v1/reservations", try_body("early", 4, 60_000)).await.refused(409, "wrong_state");
    assert_eq!(shop.get("/v1/reservations/early").await.is(200).body["status"], "cancelled");
}

#[tokio::test]
async fn what_is_not_there_cannot_be_confirmed() {
    let shop = Shop::open().await;
    act(&shop, "no", "confirm").await.refused(404, "reservation_not_found");
    act(&shop, "no", "extend").await.refused(404, "reservation_not_found");
    shop.get("/v1/reservations/no").await.refused(404, "reservation_not_found");
    act(&shop, "a%20b", "confirm").await.refused(404, "reservation_not_found");
    act(&shop, "a%20b", "cancel").await.refused(422, "invalid_value");
    // Of the shape that Stockroom makes: nobody can have sent a try for it.
    act(&shop, "r0000000000000000", "cancel").await.refused(404, "reservation_not_found");
}

#[tokio::test]
async fn a_hold_expires_on_the_replicated_clock() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    shop.post("/v1/reservations", try_body("r-1", 10, 100)).await.is(201);
    let order = json!({"lines": [{"sku": "mug", "quantity": 10}]});
    let deadline = Instant::now() + Duration::from_secs(10);
    // Until then the units are promised; from then on they are freed before a line is checked.
    while shop.post("/v1/orders", order.clone()).await.status != 201 {
        assert!(Instant::now() < deadline, "the hold never expired");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    act(&shop, "r-1", "confirm").await.refused(409, "wrong_state");
    shop.post("/v1/reservations", try_body("r-1", 10, 100)).await.refused(409, "wrong_state");
    assert_eq!(act(&shop, "r-1", "cancel").await.is(200).body["status"], "expired", "it stays expired");
}

#[tokio::test]
async fn all_lines_are_held_or_none_and_every_short_line_is_named() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 3), ("cup", 2), ("jug", 9)]).await;
    let lines = json!([
        {"sku": "mug", "quantity": 2}, {"sku": "cup", "quantity": 5}, {"sku": "jug", "quantity": 1},
        {"sku": "mug", "quantity": 2},
    ]);
    let short = shop.post("/v1/reservations", json!({"ttl_ms": 60_000, "lines": lines})).await;
    let shortages = short.refused(409, "out_of_stock").body["shortages"].clone();
    assert_eq!(
        shortages,
        json!([
            {"sku": "mug", "location": "main", "requested": 4, "available": 3},
            {"sku": "cup", "location": "main", "requested": 5, "available": 2},
        ])
    );
    assert_eq!(shop.counters("jug").await, [9, 0, 0, 9]);
}

#[tokio::test]
async fn reservations_are_listed_by_status() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    for id in ["r-1", "r-2", "r-3"] {
        shop.post("/v1/reservations", try_body(id, 1, 60_000)).await.is(201);
    }
    let made =
        shop.post("/v1/reservations", json!({"ttl_ms": 60_000, "lines": [{"sku": "mug", "quantity": 1}]}));
    let made = made.await.is(201).body["id"].as_str().unwrap().to_owned();
    act(&shop, "r-2", "confirm").await.is(200);
    let ids = |page: Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(shop.get("/v1/reservations").await.is(200).body), ["r-1", "r-2", "r-3", &made]);
    assert_eq!(ids(shop.get("/v1/reservations?status=held").await.is(200).body), ["r-1", "r-3", &made]);
    assert_eq!(ids(shop.get("/v1/reservations?status=confirmed").await.is(200).body), ["r-2"]);
    shop.get("/v1/reservations?status=gone").await.refused(400, "invalid_parameter");
    let own = shop.post("/v1/reservations", try_body(&made, 1, 60_000)).await;
    own.refused(422, "invalid_value");
}
