//! `/v1/orders`

use crate::shop::{Answer, Shop};
use serde_json::{Value, json};

async fn act(shop: &Shop, action: &str, body: Value) -> Answer {
    shop.post(&format!("/v1/orders/o-1/{action}"), body).await
}

/// An order `o-1` of 4 mugs at 250 each.
async fn placed() -> Shop {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10), ("cup", 5)]).await;
    let body = json!({"id": "o-1", "lines": [{"sku": "mug", "quantity": 4}]});
    shop.post("/v1/orders", body).await.is(201);
    shop
}

#[tokio::test]
async fn an_order_is_placed_and_read_as_it_was_sent() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10), ("cup", 5)]).await;
    let body = json!({
        "id": "web/1".replace('/', "-"), "customer_id": "c-7", "currency": "EUR",
        "pay_by": "2099-01-31T09:00:00.000Z", "metadata": {"channel": "web"},
        "lines": [
            {"sku": "mug", "quantity": 2},
            {"sku": "cup", "location": "main", "quantity": 1, "amount_minor": 99},
        ],
    });
    let placed = shop.post("/v1/orders", body.clone()).await.is(201);
    assert_eq!(placed.header("location"), "/v1/orders/web-1");
    let order = &placed.body;
    for field in ["id", "customer_id", "currency", "pay_by", "metadata"] {
        assert_eq!(order[field], body[field], "{field}");
    }
    assert_eq!((&order["status"], &order["due_minor"]), (&json!("placed"), &json!(599)));
    assert_eq!(
        order["lines"][0],
        json!({
            "sku": "mug", "location": "main", "quantity": 2, "amount_minor": 500,
            "shipped": 0, "returned": 0, "cancelled": 0,
        })
    );
    assert_eq!(order["log_index"].to_string(), placed.header("stockroom-applied-index"));
    assert_eq!(&shop.get("/v1/orders/web-1").await.is(200).body, order);
    assert_eq!(shop.counters("mug").await, [10, 0, 2, 8]);
    shop.get("/v1/orders/web-2").await.refused(404, "order_not_found");
    shop.get("/v1/orders/a%20b").await.refused(404, "order_not_found");
}

#[tokio::test]
async fn a_chosen_id_is_unique_for_ever() {
    let shop = placed().await;
    let body = json!({"id": "o-1", "lines": [{"sku": "mug", "quantity": 4}]});
    let again = shop.post("/v1/orders", body).await.is(200);
    assert!(!again.replayed(), "another key: the order answers, not its receipt");
    assert_eq!(shop.counters("mug").await, [10, 0, 4, 6]);
    let other = json!({"id": "o-1", "lines": [{"sku": "mug", "quantity": 5}]});
    assert_eq!(shop.post("/v1/orders", other).await.refused(409, "id_taken").body["id"], "o-1");

    let made = shop.post("/v1/orders", json!({"lines": [{"sku": "mug", "quantity": 1}]})).await.is(201);
    let id = made.body["id"].as_str().unwrap();
    assert_eq!(&shop.get(&format!("/v1/orders/{id}")).await.is(200).body, &made.body);
    let own = json!({"id": id, "lines": [{"sku": "mug", "quantity": 1}]});
    shop.post("/v1/orders", own).await.refused(422, "invalid_value");
}

#[tokio::test]
async fn an_order_of_many_lines_is_all_or_nothing() {
    let shop = placed().await;
    let lines =
        json!([{"sku": "cup", "quantity": 1}, {"sku": "mug", "quantity": 7}, {"sku": "cup", "quantity": 5}]);
    let short = shop.post("/v1/orders", json!({"lines": lines})).await.refused(409, "out_of_stock");
    assert_eq!(
        short.body["shortages"],
        json!([
            {"sku": "cup", "location": "main", "requested": 6, "available": 5},
            {"sku": "mug", "location": "main", "requested": 7, "available": 6},
        ])
    );
    let unknown = json!({"lines": [{"sku": "cup", "quantity": 1}, {"sku": "no", "quantity": 1}]});
    shop.post("/v1/orders", unknown).await.refused(422, "unknown_sku");
    assert_eq!(shop.counters("cup").await, [5, 0, 0, 5]);
}

#[tokio::test]
async fn an_order_takes_over_a_reservation() {
    let shop = placed().await;
    let hold = json!({"id": "r-1", "ttl_ms": 60_000, "lines": [{"sku": "cup", "quantity": 5}]});
    shop.post("/v1/reservations", hold).await.is(201);
    let order = shop.post("/v1/orders", json!({"reservation_id": "r-1"})).await.is(201).body;
    assert_eq!((&order["lines"][0]["sku"], &order["lines"][0]["quantity"]), (&json!("cup"), &json!(5)));
    assert_eq!(shop.counters("cup").await, [5, 0, 5, 0]);
    assert_eq!(shop.get("/v1/reservations/r-1").await.is(200).body["status"], "confirmed");
    shop.post("/v1/orders", json!({"reservation_id": "r-1"})).await.refused(409, "wrong_state");
    shop.post("/v1/orders", json!({"reservation_id": "r-2"})).await.refused(404, "reservation_not_found");
    let both = json!({"reservation_id": "r-1", "lines": [{"sku": "mug", "quantity": 1}]});
    shop.post("/v1/orders", both).await.refused(422, "invalid_value");
    shop.post("/v1/orders", json!({})).await.refused(400, "missing_field");
}

#[tokio::test]
async fn an_order_goes_its_way_in_parts() {
    let shop = placed().await;
    act(&shop, "ship", json!({})).await.refused(409, "wrong_state");
    let part = act(&shop, "pay", json!({"amount_minor": 400, "reference": "psp-1"})).await.is(200).body;
    assert_eq!((&part["status"], &part["paid_minor"]), (&json!("placed"), &json!(400)));
    assert_eq!(part["references"], json!(["psp-1"]));
    let much = act(&shop, "pay", json!({"amount_minor": 601})).await.refused(422, "too_much");
    assert_eq!((&much.body["most"], &much.body["asked"]), (&json!(600), &json!(601)));
    assert_eq!(act(&shop, "pay", json!({})).await.is(200).body["status"], "paid");

    let one = json!({"lines": [{"sku": "mug", "quantity": 1}]});
    let shipped = act(&shop, "ship", one.clone()).await.is(200).body;
    assert_eq!((&shipped["status"], &shipped["lines"][0]["shipped"]), (&json!("partly_shipped"), &json!(1)));
    assert_eq!(shop.counters("mug").await, [9, 0, 3, 6]);
    act(&shop, "ship", json!({"lines": [{"sku": "mug", "quantity": 4}]})).await.refused(422, "too_much");
    act(&shop, "ship", json!({"lines": [{"sku": "cup", "quantity": 1}]})).await.refused(422, "no_such_line");
    let wrong = act(&shop, "complete", json!({})).await.refused(409, "wrong_state");
    assert_eq!(
        (&wrong.body["state"], &wrong.body["allowed"]),
        (&json!("partly_shipped"), &json!(["shipped"]))
    );
    assert_eq!(act(&shop, "ship", json!({})).await.is(200).body["status"], "shipped");
    assert_eq!(act(&shop, "complete", json!({})).await.is(200).body["status"], "completed");

    let returned = act(&shop, "return", one.clone()).await.is(200).body;
    assert_eq!((&returned["refund_owed_minor"], &returned["status"]), (&json!(250), &json!("completed")));
    assert_eq!(shop.counters("mug").await, [7, 0, 0, 7], "restocked");
    act(&shop, "return", json!({"lines": [{"sku": "mug", "quantity": 1}], "restock": false})).await.is(200);
    assert_eq!(shop.counters("mug").await, [7, 0, 0, 7], "written off");
    act(&shop, "refund", json!({"amount_minor": 501})).await.refused(422, "too_much");
    let refunded = act(&shop, "refund", json!({"amount_minor": 500})).await.is(200).body;
    assert_eq!((&refunded["refunded_minor"], &refunded["refund_owed_minor"]), (&json!(500), &json!(0)));
    act(&shop, "refund", json!({})).await.refused(409, "nothing_left");
    act(&shop, "cancel", json!({})).await.refused(409, "wrong_state");
}

#[tokio::test]
async fn an_order_has_room_for_so_many_references() {
    let shop = placed().await;
    let pay = |n: usize| json!({"amount_minor": 1, "reference": format!("p-{n}")});
    let command = |n: usize| json!({"key": format!("pay-{n}"), "method": "POST", "path": "/v1/orders/o-1/pay", "body": pay(n)});
    let commands: Vec<Value> = (0..100).map(command).collect();
    let paid = shop.write_with("POST", "/v1/batch", &[], json!({"commands": commands})).await.is(200).body;
    assert!(paid["outcomes"].as_array().unwrap().iter().all(|outcome| outcome["status"] == 200));
    let full = act(&shop, "pay", pay(100)).await.refused(422, "too_many_references");
    assert_eq!(full.body["most"], 100);
    assert!(full.body["next_steps"][0].as_str().unwrap().contains("`reference`"), "{}", full.text());
    assert_eq!(act(&shop, "pay", json!({})).await.is(200).body["status"], "paid");
    act(&shop, "cancel", json!({})).await.is(200);
    let refund = json!({"amount_minor": 1, "reference": "r-1"});
    act(&shop, "refund", refund).await.refused(422, "too_many_references");
    act(&shop, "refund", json!({})).await.is(200);
}

#[tokio::test]
async fn a_cancelled_order_frees_its_stock_and_owes_what_was_paid() {
    let shop = placed().await;
    act(&shop, "pay", json!({})).await.is(200);
    let cancelled = act(&shop, "cancel", json!({"reason": "changed their mind"})).await.is(200).body;
    assert_eq!(
        (&cancelled["status"], &cancelled["cancel_reason"]),
        (&json!("cancelled"), &json!("changed their mind"))
    );
    assert_eq!(cancelled["refund_owed_minor"], 1000);
    assert_eq!(shop.counters("mug").await, [10, 0, 0, 10]);
    act(&shop, "pay", json!({})).await.refused(409, "wrong_state");
    for action in ["pay", "ship", "complete", "cancel", "return", "refund"] {
        let path = format!("/v1/orders/no/{action}");
        shop.post(&path, json!({})).await.refused(404, "order_not_found");
    }
}

#[tokio::test]
async fn amounts_are_of_one_currency_and_within_range() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let price = json!({"price": {"amount_minor": 100, "currency": "JPY"}});
    shop.put("/v1/items/fan", price).await.is(201);
    shop.post("/v1/stock/receive", json!({"lines": [{"sku": "fan", "quantity": 9}]})).await.is(200);
    let mixed = json!({"lines": [{"sku": "mug", "quantity": 1}, {"sku": "fan", "quantity": 1}]});
    shop.post("/v1/orders", mixed).await.refused(422, "mixed_currency");
    let most = 9_007_199_254_740_991_u64;
    let lines = json!([
        {"sku": "mug", "quantity": 1, "amount_minor": most}, {"sku": "mug", "quantity": 1, "amount_minor": 1},
    ]);
    shop.post("/v1/orders", json!({"lines": lines})).await.refused(422, "out_of_range");
    let past = json!({"pay_by": "2001-01-01T00:00:00Z", "lines": [{"sku": "mug", "quantity": 1}]});
    let late = shop.post("/v1/orders", past).await.refused(422, "too_late");
    assert_eq!(late.body["deadline"], "2001-01-01T00:00:00.000Z");
    let free = json!({"lines": [{"sku": "mug", "quantity": 1, "amount_minor": 0}]});
    assert_eq!(shop.post("/v1/orders", free).await.is(201).body["status"], "paid");
}

#[tokio::test]
async fn metadata_is_merged_and_null_removes() {
    let shop = placed().await;
    let patch = async |metadata: Value| {
        let body = json!({ "metadata": metadata });
        shop.write("PATCH", "/v1/orders/o-1/metadata", &shop.new_key(), body).await
    };
    assert_eq!(
        patch(json!({"a": "1", "b": "2"})).await.is(200).body["metadata"],
        json!({"a": "1", "b": "2"})
    );
    let merged = patch(json!({"a": null, "c": "", "none": null})).await.is(200).body;
    assert_eq!(merged["metadata"], json!({"b": "2", "c": ""}));
    let many: serde_json::Map<_, _> = (0..15).map(|i| (format!("k{i}"), json!("v"))).collect();
    let much = patch(many.into()).await.refused(422, "too_much_metadata");
    assert_eq!(much.body["most"], 16);
    patch(json!({"a": "x".repeat(257)})).await.refused(422, "metadata_too_long");
    patch(json!({"": "x"})).await.refused(422, "invalid_value");
    patch(json!({"a": 1})).await.refused(400, "invalid_type");
    let missing = shop.write("PATCH", "/v1/orders/no/metadata", "k", json!({"metadata": {}})).await;
    missing.refused(404, "order_not_found");
}

#[tokio::test]
async fn orders_are_listed_by_customer_and_status() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 100)]).await;
    for (id, customer) in [("a", "c-1"), ("b", "c-2"), ("c", "c-1"), ("d", "c-1")] {
        let body = json!({"id": id, "customer_id": customer, "lines": [{"sku": "mug", "quantity": 1}]});
        shop.post("/v1/orders", body).await.is(201);
    }
    shop.post("/v1/orders/c/pay", json!({})).await.is(200);
    let ids = async |query: &str| -> Vec<String> {
        let page = shop.get(&format!("/v1/orders{query}")).await.is(200).body;
        page["items"].as_array().unwrap().iter().map(|o| o["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids("").await, ["a", "b", "c", "d"]);
    assert_eq!(ids("?customer_id=c-1").await, ["a", "c", "d"]);
    assert_eq!(ids("?status=paid").await, ["c"]);
    assert_eq!(ids("?customer_id=c-1&status=placed").await, ["a", "d"]);
    assert_eq!(ids("?customer_id=nobody").await, [""; 0]);
    let page = shop.get("/v1/orders?customer_id=c-1&limit=2").await.is(200).body;
    let cursor = page["next_cursor"].as_str().unwrap();
    assert_eq!(ids(&format!("?customer_id=c-1&cursor={cursor}")).await, ["d"]);
    shop.get(&format!("/v1/orders?cursor={cursor}")).await.refused(400, "invalid_cursor");
    shop.get("/v1/orders?status=lost").await.refused(400, "invalid_parameter");
    shop.get("/v1/orders?customer_id=a%20b").await.refused(422, "invalid_value");
}
