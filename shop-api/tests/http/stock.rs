//! `/v1/stock` and `/v1/movements`

use crate::shop::Shop;
use serde_json::{Value, json};

#[tokio::test]
async fn goods_are_received_where_they_are_said_to_be() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 0), ("cup", 0)]).await;
    let lines = json!({"lines": [
        {"sku": "mug", "quantity": 5}, {"sku": "mug", "quantity": 2, "location": "shop-7"},
        {"sku": "cup", "quantity": 1, "location": null}, {"sku": "mug", "quantity": 3},
    ]});
    let received = shop.post("/v1/stock/receive", lines).await.is(200).body;
    let mug = json!({"sku": "mug", "location": "main", "on_hand": 8, "reserved": 0, "allocated": 0, "available": 8});
    assert!(received["items"].as_array().unwrap().contains(&mug), "{received}");

    let stock = shop.get("/v1/stock/mug").await.is(200).body;
    assert_eq!((&stock["on_hand"], &stock["available"]), (&json!(10), &json!(10)));
    let at: Vec<_> =
        stock["locations"].as_array().unwrap().iter().map(|l| (&l["location"], &l["on_hand"])).collect();
    assert_eq!(at, [(&json!("main"), &json!(8)), (&json!("shop-7"), &json!(2))]);
    let unknown = json!({"lines": [{"sku": "mug", "quantity": 1}, {"sku": "no", "quantity": 1}]});
    let refused = shop.post("/v1/stock/receive", unknown).await.refused(422, "unknown_sku");
    assert_eq!(refused.body["skus"], json!(["no"]));
    assert_eq!(shop.counters("mug").await, [10, 0, 0, 10], "all lines or none");
}

#[tokio::test]
async fn a_count_is_corrected_unless_it_is_not_what_was_expected() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    let adjust = async |delta: i64, expected: Value| {
        let body = json!({"sku": "mug", "delta": delta, "reason": "count", "expected_on_hand": expected});
        shop.post("/v1/stock/adjust", body).await
    };
    assert_eq!(adjust(-2, json!(10)).await.is(200).body["items"][0]["on_hand"], 8);
    let differs = adjust(-2, json!(10)).await.refused(409, "on_hand_differs");
    assert_eq!((&differs.body["expected"], &differs.body["actual"]), (&json!(10), &json!(8)));
    shop.post("/v1/reservations", json!({"ttl_ms": 60_000, "lines": [{"sku": "mug", "quantity": 7}]}))
        .await
        .is(201);
    let below = adjust(-2, Value::Null).await.refused(409, "below_promised");
    assert_eq!((&below.body["on_hand"], &below.body["promised"]), (&json!(8), &json!(7)));
    adjust(-1, Value::Null).await.is(200);
    adjust(0, Value::Null).await.refused(422, "invalid_value");
    adjust(9_007_199_254_740_991, Value::Null).await.refused(422, "out_of_range");
}

#[tokio::test]
async fn only_available_units_change_rooms() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10)]).await;
    shop.post("/v1/reservations", json!({"ttl_ms": 60_000, "lines": [{"sku": "mug", "quantity": 7}]}))
        .await
        .is(201);
    let transfer = async |quantity: u64, to: &str| {
        let body = json!({"sku": "mug", "from": "main", "to": to, "quantity": quantity});
        shop.post("/v1/stock/transfer", body).await
    };
    let short = transfer(4, "shop-7").await.refused(409, "out_of_stock");
    let shortage = json!([{"sku": "mug", "location": "main", "requested": 4, "available": 3}]);
    assert_eq!(short.body["shortages"], shortage);
    let moved = transfer(3, "shop-7").await.is(200).body;
    assert_eq!(moved["items"].as_array().unwrap().len(), 2);
    transfer(1, "main").await.refused(422, "same_location");
    assert_eq!(shop.counters("mug").await, [10, 7, 0, 3]);
}

#[tokio::test]
async fn several_skus_are_read_at_once_in_the_order_asked_for() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 1), ("cup", 2), ("jug", 0)]).await;
    let stocks = shop.get("/v1/stock?sku=jug&sku=mug&sku=cup").await.is(200).body;
    let on_hand: Vec<_> =
        stocks["items"].as_array().unwrap().iter().map(|s| (&s["sku"], &s["on_hand"])).collect();
    assert_eq!(on_hand, [(&json!("jug"), &json!(0)), (&json!("mug"), &json!(1)), (&json!("cup"), &json!(2))]);
    let unknown = shop.get("/v1/stock?sku=no&sku=mug&sku=nor").await.refused(422, "unknown_sku");
    assert_eq!(unknown.body["skus"], json!(["no", "nor"]));
    shop.get("/v1/stock").await.refused(400, "missing_parameter");
    let many: String = (0..101).map(|i| format!("sku=s{i}&")).collect();
    shop.get(&format!("/v1/stock?{many}")).await.refused(422, "too_many_skus");
    shop.get("/v1/stock/no").await.refused(404, "item_not_found");
}

#[tokio::test]
async fn movements_tell_the_whole_history_newest_first() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 10), ("cup", 4)]).await;
    let transfer = json!({"sku": "mug", "from": "main", "to": "shop-7", "quantity": 1});
    shop.post("/v1/stock/transfer", transfer).await.is(200);
    shop.post("/v1/orders", json!({"id": "o-1", "lines": [{"sku": "mug", "quantity": 2}]})).await.is(201);

    let kinds = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|m| m["kind"].as_str().unwrap().to_owned()).collect()
    };
    let page = shop.get("/v1/stock/mug/movements?location=main").await.is(200).body;
    assert_eq!(kinds(&page), ["allocated", "transferred_out", "received"]);
    let newest = &page["items"][0];
    assert_eq!(newest["cause"], json!({"order": "o-1"}));
    assert_eq!((&newest["quantity"], &newest["on_hand_after"]), (&json!(2), &json!(9)));
    assert_eq!(newest["allocated_after"], 2);

    let all = shop.get("/v1/movements?sku=mug&sku=cup&sku=mug").await.is(200).body;
    assert_eq!(kinds(&all), ["allocated", "transferred_in", "transferred_out", "received", "received"]);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = shop.get(&format!("/v1/movements?sku=mug&sku=cup&limit=2{cursor}")).await.is(200).body;
        seen.extend(page["items"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(Value::from(seen), all["items"], "no skip and no repeat");
    shop.get("/v1/stock/no/movements").await.refused(404, "item_not_found");
    shop.get("/v1/movements?sku=no").await.refused(422, "unknown_sku");
    shop.get("/v1/movements").await.refused(400, "missing_parameter");
}

#[tokio::test]
async fn a_sum_over_all_locations_stays_within_the_numbers_of_json() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 0)]).await;
    let most = 9_007_199_254_740_991_u64;
    for location in ["a", "b"] {
        let body = json!({"sku": "mug", "location": location, "delta": most, "reason": "count"});
        shop.post("/v1/stock/adjust", body).await.is(200);
    }
    assert_eq!(shop.counters("mug").await, [most, 0, 0, most]);
    let stock = shop.get("/v1/stock?sku=mug").await.is(200).body["items"][0].clone();
    assert_eq!((&stock["on_hand"], &stock["locations"][1]["on_hand"]), (&json!(most), &json!(most)));
}

#[tokio::test]
async fn a_cursor_goes_on_in_the_movements_of_its_own_sku() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 1), ("cup", 1)]).await;
    shop.post("/v1/stock/receive", json!({"lines": [{"sku": "mug", "quantity": 1}]})).await.is(200);
    let page = shop.get("/v1/stock/mug/movements?limit=1").await.is(200).body;
    let cursor = page["next_cursor"].as_str().unwrap();
    shop.get(&format!("/v1/stock/cup/movements?cursor={cursor}")).await.refused(400, "invalid_cursor");
    let rest = shop.get(&format!("/v1/stock/mug/movements?cursor={cursor}")).await.is(200).body;
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next_cursor"]), (1, &Value::Null));
}
