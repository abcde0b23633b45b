//! A shop as text, and back: nothing differs.

use crate::backup::new_nodes;
use crate::harness::{Cluster, Server, stderr, stockroom, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

const FILES: [&str; 5] = ["items", "stock", "reservations", "orders", "movements"];

/// The export of a node by file, as `stockctl export` keeps it.
async fn export(node: &Server) -> (BTreeMap<String, String>, Value) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client.get(format!("http://{}/v1/admin/export", node.http)).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.expect("all of it");
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).expect("JSON");
        if let Some(about) = value.get("end") {
            assert_eq!(files.keys().count(), FILES.len(), "a section is missing");
            return (files, about.clone());
        }
        match value["section"].as_str() {
            Some(section) => current = section.to_owned(),
            None => {
                files.entry(current.clone()).or_default().push_str(line);
                files.entry(current.clone()).or_default().push('\n');
            }
        }
        files.entry(current.clone()).or_default();
    }
    panic!("the export has no end");
}

fn write(dir: &Path, files: &BTreeMap<String, String>, about: &Value) {
    std::fs::create_dir_all(dir).expect("room");
    std::fs::write(dir.join("about.json"), about.to_string()).expect("room");
    for (name, text) in files {
        std::fs::write(dir.join(format!("{name}.ndjson")), text).expect("room");
    }
}

async fn import(from: &Path, node: &Server) -> Output {
    let member = format!("{}={},{}", node.id, node.peer, node.http);
    let (from, dir) = (from.to_str().expect("UTF-8"), node.data_dir.to_str().expect("UTF-8"));
    stockroom(&["import", from, "--dir", dir, "--member", &member], &[]).await
}

/// One of everything: each kind of movement, each state of orders and reservations.
async fn live(cluster: &Cluster) {
    let item = json!({"name": "A \"mug\"\n", "price": {"amount_minor": 1250, "currency": "EUR"},
        "attributes": {"z": 1.50, "a": [1, {"b": null}], "text": "ä\u{1}"}});
    let put = |key: &str, sku: &str, body: &Value| json!({"key": key, "method": "PUT", "path": format!("/v1/items/{sku}"), "body": body});
    let items = json!({"commands": [put("i1", "mug", &item), put("i2", "cup", &json!({})), put("i3", "old", &json!({}))]});
    until("the items are put", || async {
        let (_, body) = cluster.nodes[0].post("/v1/batch", None, &items).await?;
        let outcomes = body["outcomes"].as_array()?;
        let refused = outcomes.iter().find(|outcome| matches!(outcome["status"].as_u64(), Some(400..500)));
        assert!(refused.is_none(), "{refused:?}");
        outcomes.iter().all(|outcome| outcome["status"].as_u64() < Some(300)).then_some(())
    })
    .await;
    let mut step = 0;
    let mut done = async |path: &str, body: Value, status: u16| {
        step += 1;
        let (got, answer) = cluster.write(&format!("step-{step}"), path, &body).await;
        assert_eq!(got, status, "{path} {body}: {answer}");
        answer
    };
    let line = |sku: &str, quantity: u64| json!({"sku": sku, "quantity": quantity});
    done("/v1/stock/receive", json!({"lines": [line("mug", 100), line("cup", 50), line("mug", 1)]}), 200)
        .await;
    done("/v1/stock/adjust", json!({"sku": "mug", "delta": -3, "reason": "broken"}), 200).await;
    done("/v1/stock/transfer", json!({"sku": "mug", "from": "main", "to": "shop", "quantity": 20}), 200)
        .await;
    done("/v1/items/old/retire", json!({}), 200).await;
    for (id, then) in [("held", None), ("taken", Some("confirm")), ("freed", Some("cancel"))] {
        done(
            "/v1/reservations",
            json!({"id": id, "ttl_ms": 3_600_000, "lines": [line("mug", 2), line("cup", 1)]}),
            201,
        )
        .await;
        if let Some(then) = then {
            done(&format!("/v1/reservations/{id}/{then}"), json!({}), 200).await;
        }
    }
    done("/v1/reservations", json!({"ttl_ms": 100, "lines": [line("cup", 1)]}), 201).await;
    done("/v1/reservations/never-tried/cancel", json!({}), 200).await;
    done("/v1/reservations", json!({"id": "ordered", "ttl_ms": 3_600_000, "lines": [line("cup", 2)]}), 201)
        .await;
    done("/v1/orders", json!({"reservation_id": "ordered", "customer_id": "c1"}), 201).await;
    let two = json!([line("mug", 3), {"sku": "cup", "quantity": 2, "amount_minor": 999}]);
    let order = json!({"id": "whole", "customer_id": "c1", "metadata": {"note": "ä"}, "currency": "EUR", "lines": two});
    done("/v1/orders", order, 201).await;
    done("/v1/orders/whole/pay", json!({"amount_minor": 100, "reference": "p1"}), 200).await;
    done("/v1/orders/whole/pay", json!({}), 200).await;
    done("/v1/orders/whole/ship", json!({"lines": [line("mug", 2)]}), 200).await;
    done("/v1/orders/whole/cancel", json!({"reason": "enough"}), 200).await;
    done("/v1/orders/whole/return", json!({"lines": [line("mug", 1)]}), 200).await;
    done("/v1/orders/whole/return", json!({"restock": false}), 200).await;
    done("/v1/orders/whole/refund", json!({"amount_minor": 1, "reference": "r1"}), 200).await;
    done("/v1/orders/whole/complete", json!({}), 200).await;
    let later =
        json!({"id": "unpaid", "pay_by": "2099-01-01T00:00:00Z", "lines": [line("mug", 1), line("mug", 2)]});
    done("/v1/orders", later, 201).await;
    done("/v1/orders", json!({"lines": [{"sku": "mug", "location": "shop", "quantity": 1}]}), 201).await;
    done("/v1/orders", json!({"id": "gone", "lines": [line("cup", 1)]}), 201).await;
    done("/v1/orders/gone/cancel", json!({}), 200).await;
    until("the short hold expires", || async {
        let (_, body) = cluster.nodes[0].get("/v1/reservations?status=expired").await?;
        (!body["items"].as_array()?.is_empty()).then_some(())
    })
    .await;
}

/// All lists of a node, as callers see them.
async fn lists(node: &Server) -> Vec<Value> {
    let mut all = Vec::new();
    for path in [
        "/v1/items",
        "/v1/orders",
        "/v1/orders?customer_id=c1",
        "/v1/reservations",
        "/v1/stock?sku=mug&sku=cup",
        "/v1/movements?sku=mug&sku=cup",
        "/v1/orders/whole",
    ] {
        let (status, body) = until(path, || node.get(path)).await;
        assert_eq!(status, 200, "{path}: {body}");
        all.push(body);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_imported_exports_the_same() {
    let mut cluster = Cluster::of_three(&[]).await;
    live(&cluster).await;
    let (files, about) = export(&cluster.nodes[1]).await;
    assert_eq!(export(&cluster.nodes[2]).await.0, files, "of another node");
    for name in FILES {
        assert!(!files[name].is_empty(), "{name} is empty");
    }
    let before = lists(&cluster.nodes[0]).await;
    let dir = cluster.dir.path().join("export");
    write(&dir, &files, &about);
    let mut nodes = new_nodes(&cluster.dir.path().join("imported"), 1, &[]);
    let imported = import(&dir, &nodes[0]).await;
    assert!(imported.status.success(), "{}", stderr(&imported));
    for node in &mut cluster.nodes {
        node.kill().await;
    }
    nodes[0].start();
    cluster.nodes = nodes;
    cluster.wait_until_ready().await;
    assert_eq!(lists(&cluster.nodes[0]).await, before);
    let (again, about_again) = export(&cluster.nodes[0]).await;
    for name in FILES {
        assert_eq!(again[name], files[name], "{name}");
    }
    assert_eq!(about_again["lines"], about["lines"]);
    cluster.assert_audits_clean().await;

    // It lives on: a chosen id is taken, a hold can be confirmed, a deadline holds units.
    let other = json!({"id": "whole", "lines": [{"sku": "mug", "quantity": 1}]});
    assert_eq!(cluster.write("other", "/v1/orders", &other).await.1["code"], "id_taken");
    assert_eq!(cluster.write("confirm", "/v1/reservations/held/confirm", &json!({})).await.0, 200);
    assert_eq!(cluster.write("pay", "/v1/orders/unpaid/pay", &json!({})).await.0, 200);
    cluster.assert_audits_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_changed_or_lacks_a_line_is_refused() {
    let cluster = Cluster::of_three(&[]).await;
    live(&cluster).await;
    let (files, about) = export(&cluster.nodes[0]).await;
    type Change = fn(&str) -> String;
    let cases: [(&str, &str, Change); 6] = [
        ("not JSON", "items", |text| text.replacen('{', "", 1)),
        ("an unknown field", "stock", |text| text.replacen('{', "{\"more\":1,", 1)),
        ("more stock", "stock", |text| {
            text.replacen("\"on_hand\":", "\"on_hand\":9", 1).replacen("\"available\":", "\"available\":9", 1)
        }),
        ("a movement of more units", "movements", |text| text.replacen("\"quantity\":", "\"quantity\":1", 1)),
        ("a line less", "orders", |text| text.split_inclusive('\n').skip(1).collect()),
        ("an impossible state", "orders", |text| {
            text.replacen("\"cancelled\",\"customer", "\"placed\",\"customer", 1)
        }),
    ];
    for (what, file, change) in cases {
        let mut changed = files.clone();
        let text = change(&files[file]);
        assert_ne!(text, files[file], "{what} changes nothing");
        changed.insert(file.to_owned(), text);
        let dir = cluster.dir.path().join(what.replace(' ', "-"));
        write(&dir, &changed, &about);
        let node = &new_nodes(&dir.join("imported"), 1, &[])[0];
        let output = import(&dir, node).await;
        assert_eq!(output.status.code(), Some(8), "{what}: {}", stderr(&output));
        assert!(stderr(&output).contains("next: "), "{what}: {}", stderr(&output));
        assert!(!node.data_dir.join("identity").exists(), "{what} made a node");
    }
}
