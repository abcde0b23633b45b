//! HTTP in, commands out; no rule about stock lives here.
//!
//! One request's way: [`router`] hands it to the door (`door.rs`), which finds its route in the
//! table below, reads the headers and the body, and dispatches. A write becomes a `Command`
//! (`writes.rs`, with one file of bodies per path prefix) and goes to the cluster; a read waits for
//! its level (`consistency.rs`) and looks at one view. What comes back is rendered (`render.rs`), or
//! is one of the errors of `codes.rs`.

mod admin;
mod answer;
mod api;
mod batch;
mod cluster;
mod codes;
mod commands;
mod consistency;
mod counters;
mod docs;
mod door;
mod entries;
mod headers;
mod items;
mod json;
mod limits;
mod members;
mod openapi;
mod orders;
mod outcomes;
mod probes;
mod problem;
mod query;
mod refusals;
mod render;
mod reservations;
mod response;
mod routes;
mod settings;
mod snapshots;
mod stock;
mod upgrade;
mod values;
mod whole;
mod writes;

pub use api::Api;
pub use limits::Limits;
pub use openapi::document as openapi_document;
pub use whole::WholeRequest;

use axum::Router;

/// Serves the whole HTTP surface. [`Api::answer`] is a shorter way to a part of it.
pub fn router(api: Api) -> Router {
    // The table is looked up here rather than by axum, so that a batch resolves its paths by the
    // very same table, and a SKU may be called `receive`.
    Router::new().fallback(door::serve).with_state(api)
}

routes::routes! {
    PutItem            "put_item"            PUT   "/v1/items/{sku}"                   Write
    GetItem            "get_item"            GET   "/v1/items/{sku}"                   Read
    ListItems          "list_items"          GET   "/v1/items"                         Read
    RetireItem         "retire_item"         POST  "/v1/items/{sku}/retire"            Write

    Receive            "receive_stock"       POST  "/v1/stock/receive"                 Write
    Adjust             "adjust_stock"        POST  "/v1/stock/adjust"                  Write
    Transfer           "transfer_stock"      POST  "/v1/stock/transfer"                Write
    GetStock           "get_stock"           GET   "/v1/stock/{sku}"                   Read
    ReadStocks         "read_stocks"         GET   "/v1/stock"                         Read
    StockMovements     "list_stock_movements" GET  "/v1/stock/{sku}/movements"         Read
    Movements          "list_movements"      GET   "/v1/movements"                     Read

    Reserve            "reserve"             POST  "/v1/reservations"                  Write
    Confirm            "confirm_reservation" POST  "/v1/reservations/{id}/confirm"     Write
    CancelReservation  "cancel_reservation"  POST  "/v1/reservations/{id}/cancel"      Write
    Extend             "extend_reservation"  POST  "/v1/reservations/{id}/extend"      Write
    GetReservation     "get_reservation"     GET   "/v1/reservations/{id}"             Read
    ListReservations   "list_reservations"   GET   "/v1/reservations"                  Read

    PlaceOrder         "place_order"         POST  "/v1/orders"                        Write
    Pay                "pay_order"           POST  "/v1/orders/{id}/pay"               Write
    Ship               "ship_order"          POST  "/v1/orders/{id}/ship"              Write
    Complete           "complete_order"      POST  "/v1/orders/{id}/complete"          Write
    CancelOrder        "cancel_order"        POST  "/v1/orders/{id}/cancel"            Write
    Return             "return_order"        POST  "/v1/orders/{id}/return"            Write
    Refund             "refund_order"        POST  "/v1/orders/{id}/refund"            Write
    PatchMetadata      "patch_order_metadata" PATCH "/v1/orders/{id}/metadata"         Write
    GetOrder           "get_order"           GET   "/v1/orders/{id}"                   Read
    ListOrders         "list_orders"         GET   "/v1/orders"                        Read

    Batch              "batch"               POST  "/v1/batch"                         Batch
    GetOutcome         "get_outcome"         GET   "/v1/outcomes/{key}"                Read
    Abandon            "abandon_outcome"     POST  "/v1/outcomes/{key}/abandon"        Settle
    GetCluster         "get_cluster"         GET   "/v1/cluster"                       Local
    GetSettings        "get_settings"        GET   "/v1/cluster/settings"              Read
    ChangeSettings     "change_settings"     PATCH "/v1/cluster/settings"              Write
    PlanMember         "plan_member_change"  POST  "/v1/cluster/members/{member}/plan"    Admin
    PromoteMember      "promote_member"      POST  "/v1/cluster/members/{member}/promote" Admin
    DemoteMember       "demote_member"       POST  "/v1/cluster/members/{member}/demote"  Admin
    RemoveMember       "remove_member"       POST  "/v1/cluster/members/{member}/remove"  Admin
    TransferLeadership "transfer_leadership" POST  "/v1/cluster/leader/transfer"       Admin
    CheckUpgrade       "check_upgrade"       GET   "/v1/cluster/upgrade"               Local
    FinalizeUpgrade    "finalize_upgrade"    POST  "/v1/cluster/upgrade/finalize"      Admin
    Audit              "audit"               POST  "/v1/audit"                         Local
    Backup             "backup"              GET   "/v1/admin/backup"                  Local
    ReadLog            "read_log"            GET   "/v1/admin/log"                     Local
    LogEntries         "list_log_entries"    GET   "/v1/admin/log/entries"             Local
    GetSnapshot        "get_snapshot"        GET   "/v1/admin/snapshot"                Local
    CreateSnapshot     "create_snapshot"     POST  "/v1/admin/snapshot"                Admin
    Export             "export"              GET   "/v1/admin/export"                  Local
    GetScrub           "get_scrub"           GET   "/v1/admin/scrub"                   Local
    StartScrub         "start_scrub"         POST  "/v1/admin/scrub"                   Admin

    Live               "livez"               GET   "/livez"                            Root
    Ready              "readyz"              GET   "/readyz"                           Root
    Metrics            "metrics"             GET   "/metrics"                          Root
    OpenApi            "openapi"             GET   "/openapi.json"                     Root
    Docs               "docs"                GET   "/docs"                             Root
    DocsFile           "docs_file"           GET   "/docs/{file}"                      Root
}
