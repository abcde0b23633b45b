//! Imports through the real binary: nothing lost, nothing doubled, each refusal told.

#![allow(clippy::unwrap_used, reason = "clippy knows #[test] functions only, not what they call")]

mod fake;

use fake::{Fake, Fault, stderr, stdout};
use serde_json::{Value, json};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A directory with 30 items, and 120 orders of which some are bad.
struct Files {
    dir: tempfile::TempDir,
}

const ITEMS: u64 = 30;
const GOOD: u64 = 116;

impl Files {
    fn new() -> Self {
        let files = Files { dir: tempfile::tempdir().unwrap() };
        let items: Vec<Value> =
            (0..ITEMS).map(|i| json!({"sku": format!("P{i}"), "brand": "National"})).collect();
        files.write("items.ndjson", &items);
        let mut orders: Vec<Value> = (0..GOOD).map(order).collect();
        orders.insert(7, json!({"order_id": "zero", "customer_id": "H1", "location": "S1",
            "lines": [{"sku": "P1", "quantity": 0, "amount_cents": 0}, {"sku": "P2", "quantity": 5, "amount_cents": 1}]}));
        orders.insert(
            9,
            json!({"order_id": "unknown", "location": "S1", "lines": [{"sku": "nothing", "quantity": 1},
            {"sku": "P2", "quantity": 5}]}),
        );
        orders.push(json!({"order_id": "B3", "lines": [{"sku": "P1", "quantity": 1}]}));
        orders.push(order(4));
        orders.push(json!({"order_id": "odd", "colour": "red", "lines": []}));
        files.write("orders.ndjson", &orders);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, rows: &[Value]) {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(self.path(name), text).unwrap();
    }

    fn refused(&self) -> Vec<Value> {
        read(&self.path("orders.ndjson.refused.ndjson"))
    }
}

fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn order(i: u64) -> Value {
    json!({"order_id": format!("B{i}"), "customer_id": "H9", "location": format!("S{}", i % 3), "placed_at": "2017-01-01T11:53:26Z",
        "lines": [{"sku": format!("P{}", i % ITEMS), "quantity": 1 + i % 4, "amount_cents": 50 * i},
                  {"sku": format!("P{}", (i + 1) % ITEMS), "quantity": 2, "amount_cents": 99}]})
}

fn with_items(files: &Files) -> Fake {
    let fake = Fake::start();
    let summary = fake.json(&["import", "items", &files.text("items.ndjson"), "--batch", "7"]);
    assert_eq!(summary["stored"], json!(ITEMS));
    fake
}

fn import(fake: &Fake, files: &Files) -> Value {
    fake.json(&["import", "orders", "--receive-stock", "--batch", "10", &files.text("orders.ndjson")])
}

#[test]
fn items_are_put_once_and_left_alone_when_they_say_the_same() {
    let files = Files::new();
    let fake = with_items(&files);
    assert_eq!(fake.shop().items["P7"]["attributes"], json!({"brand": "National"}));
    assert!(!files.path("items.ndjson.refused.ndjson").exists(), "nothing was refused");
    fake.shop().items.get_mut("P3").unwrap()["attributes"] = json!({"brand": "changed"});
    let summary = fake.json(&["import", "items", &files.text("items.ndjson")]);
    assert_eq!((&summary["stored"], &summary["unchanged"]), (&json!(1), &json!(ITEMS - 1)));
    assert_eq!(
        fake.shop().items["P3"]["attributes"],
        json!({"brand": "National"}),
        "the file has the last word"
    );
}

#[test]
fn every_good_order_is_stored_and_every_other_is_told_with_its_reason() {
    let files = Files::new();
    let fake = with_items(&files);
    let summary = import(&fake, &files);
    assert_eq!(
        (&summary["stored"], &summary["refused"], &summary["repeated_rows"]),
        (&json!(GOOD), &json!(4), &json!(1))
    );
    let refused = files.refused();
    let told: Vec<(u64, &str, u64)> = refused
        .iter()
        .map(|r| {
            (r["line_number"].as_u64().unwrap(), r["code"].as_str().unwrap(), r["status"].as_u64().unwrap())
        })
        .collect();
    let expected = [
        (8, "invalid_quantity", 422),
        (10, "unknown_sku", 422),
        (119, "id_taken", 0),
        (121, "unreadable_row", 0),
    ];
    assert_eq!(told, expected);
    assert_eq!(refused[0]["order_id"], json!("zero"));
    assert_eq!(refused[0]["order"]["lines"][1]["sku"], json!("P2"), "the row itself is kept");
    let shop = fake.shop();
    let (body, _) = &shop.orders["B2"];
    assert_eq!(body["metadata"], json!({"placed_at": "2017-01-01T11:53:26Z"}));
    assert_eq!(body["lines"][0], json!({"sku": "P2", "location": "S2", "quantity": 3, "amount_minor": 100}));
    let mut asked: Vec<u64> = shop.calls.iter().filter(|c| c.2 == "/v1/batch").map(|c| c.0).collect();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked, [1, 2, 3], "the batches are spread over all nodes");
}

#[test]
fn receives_exactly_what_the_stored_orders_need() {
    let files = Files::new();
    let fake = with_items(&files);
    import(&fake, &files);
    assert_eq!(fake.available(), 0);
}

#[test]
fn running_again_changes_nothing_within_a_day_and_days_later() {
    let files = Files::new();
    let fake = with_items(&files);
    import(&fake, &files);
    let before = fake.shop().stock.clone();
    for forget in [false, true] {
        if forget {
            fake.shop().receipts.clear();
        }
        let summary = import(&fake, &files);
        assert_eq!((&summary["stored"], &summary["stored_before"]), (&json!(0), &json!(GOOD)));
        assert_eq!(summary["received"], json!({"pairs": 0, "units": 0}));
        assert_eq!(fake.shop().stock, before);
    }
}

#[test]
fn what_was_shipped_meanwhile_is_not_received_again() {
    let files = Files::new();
    let fake = with_items(&files);
    import(&fake, &files);
    {
        let mut shop = fake.shop();
        shop.receipts.clear();
        shop.stock.values_mut().for_each(|level| *level = (0, 0));
    }
    import(&fake, &files);
    assert!(fake.shop().stock.values().all(|level| *level == (0, 0)));
}

#[test]
fn an_import_that_died_anywhere_goes_on_where_it_was() {
    let files = Files::new();
    // Writes of a whole run: one receipt, six batches, one repetition of what was refused.
    for after in 0..7 {
        let fake = with_items(&files);
        let mut faults = vec![Fault::Fine; after];
        faults.extend([Fault::DoneUnknown; 2]);
        faults.extend([Fault::LostUnknown; 500]);
        fake.shop().faults = faults.into();
        let path = files.text("orders.ndjson");
        let output = fake.run(&[
            "import",
            "orders",
            "--receive-stock",
            "--batch",
            "20",
            "--give-up-after",
            "0",
            &path,
        ]);
        assert_eq!(output.status.code(), Some(9), "{}", stderr(&output));
        assert!(stderr(&output).contains("run the same command again"), "{}", stderr(&output));
        fake.shop().faults.clear();
        if after % 2 == 0 {
            fake.shop().receipts.clear();
        }
        import(&fake, &files);
        assert_eq!(fake.shop().orders.len() as u64, GOOD);
        assert_eq!(fake.available(), 0, "died after {after} writes");
    }
}

#[test]
fn a_receipt_that_comes_through_after_its_run_died_is_not_doubled() {
    let files = Files::new();
    let fake = with_items(&files);
    fake.shop().faults = std::iter::repeat_n(Fault::LostUnknown, 50).collect();
    let path = files.text("orders.ndjson");
    let args = ["import", "orders", "--receive-stock", "--give-up-after", "0", path.as_str()];
    assert_eq!(fake.run(&args).status.code(), Some(9));
    fake.shop().faults.clear();
    let late = fake.shop().calls.iter().rev().find(|c| c.2 == "/v1/stock/receive").cloned().unwrap();
    import(&fake, &files);
    // The first run's call arrives now. Under its key, the server has answered already.
    let key = late.3["idempotency-key"].to_str().unwrap().to_owned();
    assert_eq!(
        fake.shop().receipts.get(&key).map(|r| &r.0),
        Some(&late.4),
        "both runs asked the same under one key"
    );
}

#[test]
fn faults_on_the_way_lose_and_double_nothing() {
    let files = Files::new();
    let fake = with_items(&files);
    let kinds = [
        Fault::Unavailable,
        Fault::LostAnswer,
        Fault::DoneUnknown,
        Fault::LostUnknown,
        Fault::TooLarge,
        Fault::LostAnswer,
    ];
    fake.shop().faults = kinds.iter().cycle().take(24).copied().collect();
    let summary = import(&fake, &files);
    assert!(fake.shop().faults.is_empty(), "each fault happened");
    assert_eq!((&summary["stored"], &summary["refused"]), (&json!(GOOD), &json!(4)));
    assert_eq!(fake.shop().orders.len() as u64, GOOD);
    assert_eq!(fake.available(), 0);
}

#[test]
fn an_order_refused_yesterday_is_asked_for_anew_today() {
    let files = Files::new();
    let fake = with_items(&files);
    let summary = fake.json(&["import", "orders", &files.text("orders.ndjson")]);
    assert_eq!(summary["refused_by_code"]["out_of_stock"], json!(GOOD), "nothing is there yet");
    let summary = import(&fake, &files);
    assert_eq!(summary["stored"], json!(GOOD), "although the refusals are still kept under the orders' keys");
    assert_eq!(fake.available(), 0);
}

#[test]
fn gzip_and_stdin_are_read_and_stdin_cannot_be_read_twice() {
    let files = Files::new();
    let fake = with_items(&files);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&std::fs::read(files.path("orders.ndjson")).unwrap()).unwrap();
    std::fs::write(files.path("orders.gz"), gzip.finish().unwrap()).unwrap();
    let refused = files.text("refused");
    let summary =
        fake.json(&["import", "orders", "--receive-stock", "--refused", &refused, &files.text("orders.gz")]);
    assert_eq!(summary["stored"], json!(GOOD));
    assert_eq!(read(&files.path("refused")).len(), 4);
    let output = fake.run(&["import", "orders", "--receive-stock", "-"]);
    assert_eq!(output.status.code(), Some(2));
    let output = fake.run(&["import", "items", "--refused", &refused, "-"]);
    assert!(stdout(&output).contains("items stored      0"), "an empty stdin is an empty file");
}

#[test]
fn ctrl_c_tells_what_was_done_and_the_next_run_goes_on() {
    let files = Files::new();
    let fake = with_items(&files);
    // The receipt and two batches get through; then the import cannot end by itself.
    let mut faults = vec![Fault::Fine; 3];
    faults.extend([Fault::Unavailable; 5000]);
    fake.shop().faults = faults.into();
    let child = Command::new(env!("CARGO_BIN_EXE_stockctl"))
        .env("STOCKROOM_ENDPOINTS", fake.endpoints.join(","))
        .args(["import", "orders", "--receive-stock", "--batch", "10", &files.text("orders.ndjson")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while fake.shop().faults.len() > 4995 {
        assert!(Instant::now() < deadline, "the import never came to its retries");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stdout(&output).contains("Not complete. Run the same command again"), "{}", stdout(&output));
    assert!(stderr(&output).contains("(interrupted)"), "{}", stderr(&output));
    fake.shop().faults.clear();
    import(&fake, &files);
    assert_eq!(fake.shop().orders.len() as u64, GOOD);
    assert_eq!(fake.available(), 0);
}

#[test]
fn a_denial_and_a_dead_cluster_have_exit_codes() {
    let files = Files::new();
    let fake = with_items(&files);
    for node in 1..=3 {
        fake.can(node, "/v1/batch", 403, json!({"code": "denied", "title": "Denied", "definite": true}));
    }
    let output = fake.run(&["import", "orders", &files.text("orders.ndjson")]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    let path = files.text("orders.ndjson");
    let output = fake::stockctl("127.0.0.1:1", &["import", "orders", "--give-up-after", "0", &path]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

/// The whole of the shared data, where its directory is named: takes a minute.
#[test]
#[ignore = "needs the shared data; its directory in STOCKROOM_SHOP_DATA"]
fn the_real_shop_stores_111_175_orders_and_refuses_5_529() {
    let data = PathBuf::from(std::env::var("STOCKROOM_SHOP_DATA").unwrap());
    let file = |name: &str| data.join(name).to_str().unwrap().to_owned();
    let dir = tempfile::tempdir().unwrap();
    let refused = dir.path().join("refused").to_str().unwrap().to_owned();
    let fake = Fake::start();
    fake.shop().quiet = true;
    let items = fake.json(&[
        "import",
        "items",
        "--batch",
        "1000",
        "--refused",
        &refused,
        &file("products.ndjson.gz"),
    ]);
    assert_eq!((&items["stored"], &items["refused"]), (&json!(68_492), &json!(0)));
    let orders = file("orders-2017-q1-q3.ndjson.gz");
    for stored in [111_175, 0] {
        let summary = fake.json(&["import", "orders", "--receive-stock", "--refused", &refused, &orders]);
        eprintln!("{summary}");
        assert_eq!((&summary["stored"], &summary["refused"]), (&json!(stored), &json!(5_529)));
        assert_eq!(read(Path::new(&refused)).len(), 5_529);
        assert_eq!(fake.shop().stock.len(), 470_802);
        assert_eq!(fake.available(), 0);
    }
}
