//! `/v1/items`

use crate::shop::Shop;
use serde_json::json;

#[tokio::test]
async fn an_item_is_made_replaced_and_read() {
    let shop = Shop::open().await;
    let body = json!({
        "name": "Blue mug",
        "price": {"amount_minor": 1250, "currency": "EUR"},
        "attributes": {"z": 1, "a": {"deep": [true, null, "x", 1.5]}},
    });
    let made = shop.put("/v1/items/mug", body.clone()).await.is(201);
    assert_eq!(made.header("location"), "/v1/items/mug");
    assert_eq!(made.header("etag"), "\"1\"");
    for (field, value) in body.as_object().unwrap() {
        assert_eq!(&made.body[field], value, "{field}");
    }
    let read = shop.get("/v1/items/mug").await.is(200);
    assert_eq!((&read.body, read.header("etag")), (&made.body, "\"1\""));

    let replaced = shop.put("/v1/items/mug", json!({})).await.is(200);
    assert_eq!(replaced.header("location"), "");
    assert_eq!(replaced.body["name"], "mug", "the name defaults to the SKU");
    assert_eq!((&replaced.body["price"], &replaced.body["attributes"]), (&json!(null), &json!({})));
    assert_eq!((&replaced.body["version"], replaced.header("etag")), (&json!(2), "\"2\""));
    shop.get("/v1/items/cup").await.refused(404, "item_not_found");
}

#[tokio::test]
async fn attributes_are_kept_with_sorted_keys() {
    let shop = Shop::open().await;
    let made = shop.put("/v1/items/a", json!({"attributes": {"b": {"d": 1, "c": 2}, "a": 3}})).await.is(201);
    assert!(made.text().contains(r#""attributes":{"a":3,"b":{"c":2,"d":1}}"#), "{}", made.text());
}

#[tokio::test]
async fn a_replacement_may_name_the_version_it_replaces() {
    let shop = Shop::open().await;
    let put = async |header: &'static str, value: &'static str| {
        let key = shop.new_key();
        shop.write_with("PUT", "/v1/items/mug", &[("idempotency-key", &key), (header, value)], json!({}))
            .await
    };
    let differs = put("if-match", "\"1\"").await.refused(409, "version_differs");
    assert_eq!((&differs.body["expected"], &differs.body["actual"]), (&json!(1), &json!(0)));
    put("if-none-match", "*").await.is(201);
    put("if-none-match", "*").await.refused(409, "version_differs");
    put("if-match", "\"1\"").await.is(200);
    put("if-match", "\"1\"").await.refused(409, "version_differs");
    put("if-match", "1").await.refused(400, "invalid_header");
    put("if-none-match", "\"1\"").await.refused(400, "invalid_header");
}

#[tokio::test]
async fn a_read_that_has_the_version_is_not_modified() {
    let shop = Shop::open().await;
    shop.put("/v1/items/mug", json!({})).await.is(201);
    for tag in ["\"1\"", "W/\"1\"", "\"7\", \"1\"", "*"] {
        let answer = shop.get_with("/v1/items/mug", &[("if-none-match", tag)]).await.is(304);
        assert_eq!(answer.header("etag"), "\"1\"");
    }
    shop.get_with("/v1/items/mug", &[("if-none-match", "\"2\"")]).await.is(200);
}

#[tokio::test]
async fn a_retired_item_takes_no_orders_and_stays_readable() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 5)]).await;
    let retired = shop.post("/v1/items/mug/retire", json!({})).await.is(200);
    assert_eq!((&retired.body["retired"], retired.header("etag")), (&json!(true), "\"2\""));
    shop.post("/v1/items/cup/retire", json!({})).await.refused(404, "item_not_found");
    let order = json!({"lines": [{"sku": "mug", "quantity": 1}]});
    let refused = shop.post("/v1/orders", order.clone()).await.refused(409, "item_retired");
    assert_eq!(refused.body["skus"], json!(["mug"]));
    assert_eq!(shop.get("/v1/items/mug").await.is(200).body["retired"], true);
    assert_eq!(shop.counters("mug").await, [5, 0, 0, 5]);
    shop.put("/v1/items/mug", json!({})).await.is(200);
    shop.post("/v1/orders", order).await.is(201);
}

#[tokio::test]
async fn skus_may_hold_any_visible_character_but_a_slash() {
    let shop = Shop::open().await;
    let made = shop.put("/v1/items/50%25-%23%3F%26", json!({})).await.is(201);
    assert_eq!(made.body["sku"], "50%-#?&");
    shop.get(made.header("location")).await.is(200);
    shop.put("/v1/items/a%2Fb", json!({})).await.refused(422, "invalid_value");
    shop.put("/v1/items/a%20b", json!({})).await.refused(422, "invalid_value");
    shop.put(&format!("/v1/items/{}", "x".repeat(128)), json!({})).await.is(201);
    shop.put(&format!("/v1/items/{}", "x".repeat(129)), json!({})).await.refused(422, "id_too_long");
    // What no SKU can look like is simply not there.
    shop.get("/v1/items/a%20b").await.refused(404, "item_not_found");
}

#[tokio::test]
async fn items_are_listed_in_order_of_creation() {
    let shop = Shop::open().await;
    let skus = ["pear", "apple", "fig", "date", "plum"];
    for sku in skus {
        shop.put(&format!("/v1/items/{sku}"), json!({})).await.is(201);
    }
    let (mut seen, mut path) = (Vec::new(), "/v1/items?limit=2".to_owned());
    loop {
        let page = shop.get(&path).await.is(200).body;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|item| item["sku"].as_str().unwrap().to_owned()));
        // Neither replacing nor adding moves anything before the cursor.
        shop.put("/v1/items/pear", json!({})).await.is(200);
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/items?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, skus);
}
