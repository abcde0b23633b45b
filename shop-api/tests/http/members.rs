//! `/v1/cluster/members/...` and `/v1/cluster/leader/...`, on a cluster of one

use crate::shop::Shop;
use serde_json::json;

#[tokio::test]
async fn a_plan_is_worked_out_and_the_only_voter_stays() {
    let shop = Shop::open().await;
    let plan = shop.post("/v1/cluster/members/1/plan", json!({"change": "remove"})).await.is(200).body;
    assert_eq!((&plan["done"], &plan["unsafe"][0]["code"]), (&json!(false), &json!("last_voter")));
    assert_eq!(plan["before"], json!({"voters": 1, "majority": 1, "live": 1, "fault_tolerance": 0}));
    let refused = shop.post("/v1/cluster/members/1/remove", json!({"force": true})).await;
    let refused = refused.refused(409, "unsafe_change");
    assert_eq!((&refused.body["definite"], &refused.body["plan"]["id"]), (&json!(true), &json!(1)));
    assert!(refused.body["next_steps"].to_string().contains("Add another node first"), "{}", refused.body);
    shop.post("/v1/cluster/members/1/promote", json!({})).await.is(200);
    let add = shop.post("/v1/cluster/members/7/plan", json!({"change": "add"})).await.is(200).body;
    assert_eq!((&add["after"]["voters"], add["join"].as_array().map(Vec::len)), (&json!(2), Some(1)));
}

#[tokio::test]
async fn what_is_asked_wrongly_is_named() {
    let shop = Shop::open().await;
    for id in ["9", "x", "0", "-1"] {
        let path = format!("/v1/cluster/members/{id}/remove");
        shop.post(&path, json!({})).await.refused(404, "member_not_found");
    }
    shop.post("/v1/cluster/members/1/plan", json!({"change": "kill"})).await.refused(422, "invalid_value");
    shop.post("/v1/cluster/members/1/plan", json!({})).await.refused(400, "missing_field");
    shop.post("/v1/cluster/members/1/demote", json!({"forse": true})).await.refused(400, "unknown_field");
}

#[tokio::test]
async fn leadership_stays_where_nobody_else_can_take_it() {
    let shop = Shop::open().await;
    let now = shop.post("/v1/cluster/leader/transfer", json!({"to": 1})).await.is(200).body;
    assert_eq!((&now["leader"], &now["already"]), (&json!(1), &json!(true)));
    shop.post("/v1/cluster/leader/transfer", json!({"to": 2})).await.refused(409, "transfer_refused");
    shop.post("/v1/cluster/leader/transfer", json!({"to": 0})).await.refused(422, "invalid_value");
}
