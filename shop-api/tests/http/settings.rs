//! `/v1/cluster/settings`

use crate::shop::{Answer, Shop, validate};
use serde_json::{Value, json};
use stockroom_shop_api::Limits;

const PATH: &str = "/v1/cluster/settings";

fn settings(metadata_entries: u64, receipt_retention_ms: u64) -> Value {
    json!({
        "receipt_retention_ms": receipt_retention_ms, "releases_per_step": 1_000, "receipt_drops_per_step": 8,
        "metadata_entries": metadata_entries,
    })
}

async fn change(shop: &Shop, key: &str, body: Value) -> Answer {
    shop.write("PATCH", PATH, key, body).await
}

const DAY: u64 = 24 * 60 * 60 * 1_000;

#[tokio::test]
async fn only_what_is_given_changes() {
    let shop = Shop::open().await;
    assert_eq!(shop.get(PATH).await.is(200).body, settings(16, DAY));
    let changed = change(&shop, "a", json!({"metadata_entries": 20})).await.is(200);
    assert_eq!((&changed.body, changed.replayed()), (&settings(20, DAY), false));
    let both = change(&shop, "b", json!({"receipt_retention_ms": 60_000, "metadata_entries": null})).await;
    assert_eq!(both.is(200).body, settings(20, 60_000));
    assert_eq!(change(&shop, "c", json!({})).await.is(200).body, settings(20, 60_000));
    for level in ["linearizable", "session", "stale"] {
        let read = shop.get_with(PATH, &[("stockroom-consistency", level)]).await.is(200);
        assert_eq!(read.body, settings(20, 60_000), "{level}");
    }
    let log = shop.get("/v1/admin/log/entries").await.is(200).body;
    let commands = log["items"].as_array().unwrap().iter().filter_map(|item| item["commands"].as_array());
    let seen = commands.flatten().find(|command| command["key"] == "a").unwrap();
    assert_eq!(
        (&seen["command"], &seen["fields"]),
        (&json!("change_settings"), &json!({"metadata_entries": 20}))
    );
}

#[tokio::test]
async fn two_changes_of_different_fields_at_once_both_hold() {
    let shop = Shop::open().await;
    for round in 0..20_u64 {
        let (entries, retention) = (100 + round, 60_000 + round);
        let (one, two) = (format!("a-{round}"), format!("b-{round}"));
        let (one, two) = tokio::join!(
            change(&shop, &one, json!({"metadata_entries": entries})),
            change(&shop, &two, json!({"receipt_retention_ms": retention})),
        );
        assert_eq!((one.is(200).replayed(), two.is(200).replayed()), (false, false));
        assert_eq!(shop.get(PATH).await.is(200).body, settings(entries, retention));
    }
}

#[tokio::test]
async fn a_key_changes_the_settings_once_and_hears_the_same_again() {
    let shop = Shop::open().await;
    let more = || json!({"metadata_entries": 20});
    change(&shop, "a", more()).await.is(200);
    change(&shop, "a", json!({"metadata_entries": 21})).await.refused(422, "key_reused");
    change(&shop, "a", json!({"receipt_retention_ms": 60_000})).await.refused(422, "key_reused");
    // Others, and the same one, have changed since.
    change(&shop, "b", json!({"receipt_retention_ms": 60_000})).await.is(200);
    change(&shop, "c", json!({"metadata_entries": 16})).await.is(200);
    // A field that is null is one that is left out.
    for body in [more(), json!({"metadata_entries": 20, "releases_per_step": null})] {
        let again = change(&shop, "a", body).await.is(200);
        assert_eq!((&again.body, again.replayed()), (&settings(20, DAY), true));
    }
    assert_eq!(shop.get(PATH).await.is(200).body, settings(16, 60_000));
    for kept in [
        shop.get("/v1/outcomes/a").await.is(200).body,
        shop.raw("POST", "/v1/outcomes/a/abandon", &[], "").await.is(200).body,
    ] {
        assert_eq!((&kept["status"], &kept["body"]), (&json!(200), &settings(20, DAY)));
    }
}

#[tokio::test]
async fn a_batch_changes_them_too() {
    let shop = Shop::open().await;
    let command = |key: &str, body: Value| json!({"key": key, "method": "PATCH", "path": PATH, "body": body});
    let commands = [
        command("a", json!({"metadata_entries": 20})),
        command("b", json!({"receipt_retention_ms": 60_000})),
        command("c", json!({"releases_per_step": 0})),
        command("a", json!({"metadata_entries": 20})),
    ];
    let batch = shop.write_with("POST", "/v1/batch", &[], json!({"commands": commands})).await.is(200);
    let outcome = |n: usize| &batch.body["outcomes"][n];
    assert_eq!((&outcome(0)["body"], &outcome(1)["body"]), (&settings(20, DAY), &settings(20, 60_000)));
    assert_eq!(outcome(2)["body"]["code"], "invalid_value");
    assert_eq!((&outcome(3)["body"], &outcome(3)["replayed"]), (&settings(20, DAY), &json!(true)));
    assert_eq!(shop.get(PATH).await.is(200).body, settings(20, 60_000));
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_changes() {
    let shop = Shop::open().await;
    shop.stocked(&[("mug", 1)]).await;
    for (field, wrong) in [
        ("receipt_retention_ms", json!(59_999)),
        ("receipt_retention_ms", json!(90 * DAY + 1)),
        ("releases_per_step", json!(0)),
        ("releases_per_step", json!(100_001)),
        ("receipt_drops_per_step", json!(1)),
        ("receipt_drops_per_step", json!(1_001)),
        ("metadata_entries", json!(-1)),
        ("metadata_entries", json!(1_001)),
        ("metadata_entries", json!(1.5)),
    ] {
        let refused = change(&shop, "a", json!({ field: wrong })).await.refused(422, "invalid_value");
        assert_eq!(refused.body["param"], field, "{wrong}");
    }
    change(&shop, "a", json!({"metadata_entries": "20"})).await.refused(400, "invalid_type");
    change(&shop, "a", json!({"metadata": 20})).await.refused(400, "unknown_field");
    shop.write_with("PATCH", PATH, &[], json!({})).await.refused(400, "missing_idempotency_key");
    let conditional = [("idempotency-key", "a"), ("if-match", "\"1\"")];
    shop.write_with("PATCH", PATH, &conditional, json!({})).await.refused(400, "invalid_header");
    shop.raw("POST", "/v1/outcomes/a/abandon", &[], "").await.is(200);
    change(&shop, "a", json!({"metadata_entries": 20})).await.refused(409, "abandoned");
    // Of something else.
    shop.write("POST", "/v1/orders", "b", json!({"lines": [{"sku": "mug", "quantity": 1}]})).await.is(201);
    change(&shop, "b", json!({})).await.refused(422, "key_reused");
    assert_eq!(shop.get(PATH).await.is(200).body, settings(16, DAY));
}

#[tokio::test]
async fn an_order_has_as_much_metadata_as_node_and_cluster_allow() {
    let shop = Shop::with_limits(Limits { metadata_entries: 20, ..Limits::default() }).await;
    shop.stocked(&[("mug", 10)]).await;
    let place = async |entries: usize| {
        let metadata: serde_json::Map<_, _> = (0..entries).map(|n| (format!("k{n}"), json!("v"))).collect();
        let body = json!({"lines": [{"sku": "mug", "quantity": 1}], "metadata": metadata});
        // Not through `write`: the schema has the defaults.
        let (key, json) = (shop.new_key(), ("content-type", "application/json"));
        let answer =
            shop.by_router("POST", "/v1/orders", &[("idempotency-key", &key), json], body.to_string()).await;
        let schema = if answer.status < 300 { "Order" } else { "Problem" };
        validate(&json!({"$ref": format!("#/components/schemas/{schema}")}), &answer.body, "the answer");
        answer
    };
    assert_eq!(place(17).await.refused(422, "too_much_metadata").body["most"], 16);
    change(&shop, "more", json!({"metadata_entries": 30})).await.is(200);
    place(17).await.is(201);
    assert_eq!(place(21).await.refused(422, "too_much_metadata").body["most"], 20);
}
