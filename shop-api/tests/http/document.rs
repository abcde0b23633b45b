//! The OpenAPI document itself, against the running server.

use crate::shop::{DOCUMENT, Shop, operation, validate};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

#[tokio::test]
async fn what_is_served_is_described_and_what_is_described_is_served() {
    let shop = Shop::open().await;
    let served = shop.get("/openapi.json").await.is(200);
    assert_eq!(served.body, *DOCUMENT);
    for template in DOCUMENT["paths"].as_object().unwrap().keys() {
        let path = template.replace(['{', '}'], "x");
        for method in METHODS {
            let answer = shop.raw(method, &path, &[], "").await;
            // Of any template that fits: `receive` is a path of its own, and may be a SKU.
            let described = operation(method, &path).is_some();
            let routed =
                !matches!(answer.body["code"].as_str(), Some("route_not_found" | "method_not_allowed"));
            // The path of a file that is not there is described, too.
            let file = template == "/docs/{file}" && method == "GET";
            assert_eq!(routed || file, described, "{method} {path}: {}", answer.text());
        }
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_part_is_used() {
    let text = DOCUMENT.to_string();
    let mut used = BTreeSet::new();
    for rest in text.split("\"$ref\":\"#").skip(1) {
        let pointer = rest.split('"').next().unwrap();
        assert!(DOCUMENT.pointer(pointer).is_some(), "{pointer} leads nowhere");
        used.insert(pointer.to_owned());
    }
    for (kind, parts) in DOCUMENT["components"].as_object().unwrap() {
        for name in parts.as_object().unwrap().keys() {
            assert!(used.contains(&format!("/components/{kind}/{name}")), "{kind}/{name} is not used");
        }
    }
}

#[test]
fn every_call_has_a_name_of_its_own_and_describes_its_parameters() {
    let mut names = BTreeSet::new();
    for (template, calls) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, call) in calls.as_object().unwrap() {
            let name = call["operationId"].as_str().unwrap();
            assert!(names.insert(name), "{name} stands twice");
            assert!(!call["summary"].as_str().unwrap().is_empty(), "{name}");
            let tags: Vec<_> = DOCUMENT["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
            assert!(tags.contains(&&call["tags"][0]), "{name}");
            let mut seen = BTreeSet::new();
            for parameter in call["parameters"].as_array().unwrap() {
                let pointer = parameter["$ref"].as_str().unwrap().trim_start_matches('#');
                let parameter = DOCUMENT.pointer(pointer).unwrap();
                let place = (parameter["in"].as_str().unwrap(), parameter["name"].as_str().unwrap());
                assert!(seen.insert(place), "{name} has {place:?} twice");
            }
            let in_path: Vec<_> = seen.iter().filter(|(place, _)| *place == "path").collect();
            let wanted: Vec<_> =
                template.split('{').skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
            assert_eq!(in_path.iter().map(|(_, name)| *name).collect::<Vec<_>>(), wanted, "{template}");
            let takes_body = matches!(method.as_str(), "post" | "put" | "patch") && name != "abandon_outcome";
            assert_eq!(call["requestBody"].is_object(), takes_body, "{name}");
        }
    }
}

#[test]
fn every_example_fits_its_schema() {
    let mut examples = 0;
    for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
        for example in schema["examples"].as_array().unwrap_or(&Vec::new()) {
            validate(&json!({"$ref": format!("#/components/schemas/{name}")}), example, name);
            examples += 1;
        }
    }
    assert!(examples > 20, "{examples}");
}

#[tokio::test]
async fn the_page_and_its_files_come_from_the_binary() {
    let shop = Shop::open().await;
    let page = shop.get("/docs").await.is(200);
    assert!(page.header("content-type").starts_with("text/html"));
    let files: Vec<&str> =
        page.text().split("\"/docs/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        let path = format!("/docs/{file}");
        let plain = shop.get(&path).await.is(200);
        assert!(plain.bytes.len() > 500, "{file}");
        let packed = shop.get_with(&path, &[("accept-encoding", "gzip, br")]).await.is(200);
        if packed.header("content-encoding") == "gzip" {
            assert!(packed.bytes.len() < plain.bytes.len(), "{file}");
        } else {
            assert_eq!(packed.bytes, plain.bytes, "{file}");
        }
    }
}

#[test]
fn the_document_says_what_it_is() {
    assert_eq!(DOCUMENT["openapi"], "3.1.0");
    assert!(DOCUMENT["info"]["description"].as_str().is_some_and(|text| text.contains("Idempotency-Key")));
    assert!(
        DOCUMENT["paths"].as_object().is_some_and(|paths: &serde_json::Map<String, Value>| paths.len() > 25)
    );
}
