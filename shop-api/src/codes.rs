//! Every error code: its status, its title, what it means for the caller and what to do next.

/// What is the same for all errors of one code.
pub(crate) struct Spec {
    pub slug: &'static str,
    pub status: u16,
    pub title: &'static str,
    /// It did not happen and will not happen.
    pub definite: bool,
    /// The same request, with the same key, may pass later.
    pub retryable: bool,
    pub next_step: &'static str,
}

macro_rules! codes {
    ($($name:ident $slug:literal $status:literal $title:literal $definite:ident $retryable:ident $next:literal)*) => {
        /// One for each way in which a request can fail.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Code { $($name),* }

        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            pub fn spec(self) -> &'static Spec {
                match self {
                    $(Code::$name => &Spec {
                        slug: $slug,
                        status: $status,
                        title: $title,
                        definite: codes!(@ $definite),
                        retryable: codes!(@ $retryable),
                        next_step: $next,
                    }),*
                }
            }
        }
    };
    (@ definite) => { true };
    (@ unknown) => { false };
    (@ again) => { true };
    (@ final) => { false };
}

codes! {
    // Malformed: the request says nothing that could be decided.
    EmptyBody "empty_body" 400 "The body is empty" definite final
        "Send a JSON object; `{}` is one."
    InvalidJson "invalid_json" 400 "The body is not JSON" definite final
        "Correct the JSON at the line and column named in `detail`."
    InvalidType "invalid_type" 400 "A value has the wrong type" definite final
        "Correct the type of the value that `param` names."
    UnknownField "unknown_field" 400 "A field is not known" definite final
        "Remove or rename the field that `param` names; /openapi.json lists those that are known."
    DuplicateField "duplicate_field" 400 "A field stands twice" definite final
        "Send each field once."
    MissingField "missing_field" 400 "A field is missing" definite final
        "Add the field that `param` names."
    TooDeep "too_deep" 400 "The JSON nests too deeply" definite final
        "Send flatter JSON."
    BodyIncomplete "body_incomplete" 400 "The body did not arrive" definite again
        "Send the request again, with its whole body."
    MissingIdempotencyKey "missing_idempotency_key" 400 "A write needs an Idempotency-Key" definite final
        "Send a header `Idempotency-Key` with a value made for this write alone, such as a UUID."
    InvalidIdempotencyKey "invalid_idempotency_key" 400 "The Idempotency-Key is not one" definite final
        "Send one `Idempotency-Key` of 1 to 128 visible ASCII characters."
    InvalidHeader "invalid_header" 400 "A header has a value that it may not have" definite final
        "Correct or drop the header that `param` names."
    InvalidSession "invalid_session" 400 "The session token is not one of this cluster" definite final
        "Send the newest `Stockroom-Session` that this cluster answered, or none."
    InvalidParameter "invalid_parameter" 400 "A query parameter has a value that it may not have" definite final
        "Correct the query parameter that `param` names."
    UnknownParameter "unknown_parameter" 400 "A query parameter is not known" definite final
        "Drop the query parameter that `param` names; /openapi.json lists those that are known."
    MissingParameter "missing_parameter" 400 "A query parameter is missing" definite final
        "Add the query parameter that `param` names."
    InvalidCursor "invalid_cursor" 400 "The cursor is not one of this list" definite final
        "Send `next_cursor` as it was answered, with the same filters, or start without a cursor."

    // Not there.
    RouteNotFound "route_not_found" 404 "There is no such path" definite final
        "See /docs for the paths there are."
    ItemNotFound "item_not_found" 404 "There is no such item" definite final
        "Put the item first: PUT /v1/items/{sku}."
    OrderNotFound "order_not_found" 404 "There is no such order" definite final
        "Check the id; ids are case-sensitive."
    ReservationNotFound "reservation_not_found" 404 "There is no such reservation" definite final
        "Check the id; ids are case-sensitive."
    UnknownKey "unknown_key" 404 "Nothing is known of this key" definite final
        "This settles nothing: the write may still commit. To settle it, POST /v1/outcomes/{key}/abandon."
    MemberNotFound "member_not_found" 404 "There is no such member" definite final
        "See the members: GET /v1/cluster. One that was removed is none any more."
    MethodNotAllowed "method_not_allowed" 405 "The path does not have this method" definite final
        "Use a method that `Allow` names."
    NotAcceptable "not_acceptable" 406 "Answers are JSON, which `Accept` excludes" definite final
        "Accept application/json, or send no `Accept`."

    // The shop says no, as things stand.
    OutOfStock "out_of_stock" 409 "Not enough is available" definite final
        "Ask for at most what `shortages` names as available, with a new key; or receive stock first."
    ItemRetired "item_retired" 409 "The item is retired" definite final
        "Leave out the SKUs that `skus` names."
    WrongState "wrong_state" 409 "The state does not allow this" definite final
        "See `state` and `allowed`; read it again before deciding what to do."
    IdTaken "id_taken" 409 "The id stands for something else" definite final
        "Choose another id, or send the very body that was sent with this one."
    Abandoned "abandoned" 409 "The key was abandoned" definite final
        "The write did not happen and will not. To do it after all, send it with a new key."
    VersionDiffers "version_differs" 409 "The item is at another version" definite final
        "Read the item, apply the change to what it is now, and send its ETag in `If-Match`, with a new key."
    OnHandDiffers "on_hand_differs" 409 "On hand is not what was expected" definite final
        "Read the stock, count again, and adjust with a new key."
    BelowPromised "below_promised" 409 "On hand would fall below what is promised" definite final
        "Cancel orders or reservations first, or adjust by less, with a new key."

    NothingLeft "nothing_left" 409 "Nothing is left to do this with" definite final
        "Read the order; everything was done before."

    LogPurged "log_purged" 409 "The log does not go back that far" definite final
        "Ask another node, which may have kept more; or take a new backup and begin a new archive with it."

    // The cluster says no, as things stand.
    UnsafeChange "unsafe_change" 409 "The change of members is unsafe" definite final
        "Nothing was changed. See `plan`: quorum and fault tolerance before and after, and in `unsafe` what speaks against it. Where all of that is `forceable`, `{\"force\": true}` does it all the same."
    ChangeRunning "change_in_progress" 409 "Another change of the members is not complete" definite again
        "Wait a moment, look at the members, and ask again: one change is made at a time."
    TransferRefused "transfer_refused" 409 "Leadership cannot be handed over as asked" definite again
        "Nothing was changed. Name another voter, or wait until one has caught up and answers: see GET /v1/cluster."

    UnsafeUpgrade "unsafe_upgrade" 409 "The upgrade cannot be finalised as things stand" definite again
        "Nothing was changed. See `plan`: what each member runs, and in `blocked_by` what stands against it."
    NotInForce "not_in_force" 409 "The cluster does not have this yet" definite again
        "Finish the upgrade of all nodes, and finalise it: see `stockctl upgrade check`. Then send the request again, with the same key."

    // Too large, or not JSON.
    BodyTooLarge "body_too_large" 413 "The body is too large" definite final
        "Send a smaller body; split batches."
    ProposalTooLarge "proposal_too_large" 413 "The command is too large for one log entry" definite final
        "Split it."
    UnsupportedMediaType "unsupported_media_type" 415 "The body is not said to be JSON" definite final
        "Send `Content-Type: application/json`, without a content encoding."

    // A value that cannot be.
    InvalidValue "invalid_value" 422 "A value cannot be" definite final
        "Correct the value that `param` names."
    IdTooLong "id_too_long" 422 "An id is too long" definite final
        "Choose a shorter id."
    TextTooLong "text_too_long" 422 "A text is too long" definite final
        "Shorten the text that `param` names."
    TooManyLines "too_many_lines" 422 "Too many lines" definite final
        "Split the lines over several commands."
    TooManySkus "too_many_skus" 422 "Too many SKUs in one read" definite final
        "Split the SKUs over several reads."
    TooManyCommands "too_many_commands" 422 "Too many commands in one batch" definite final
        "Split the commands over several batches."
    TooMuchMetadata "too_much_metadata" 422 "Too much metadata" definite final
        "Send or keep fewer entries."
    MetadataTooLong "metadata_too_long" 422 "A metadata key or value is too long" definite final
        "Shorten the entry that `param` names."
    AttributesTooLarge "attributes_too_large" 422 "The attributes are too large" definite final
        "Keep attributes small, and large texts elsewhere."
    UnknownCurrency "unknown_currency" 422 "The currency is not in ISO 4217" definite final
        "Send a three-letter code in capitals, such as EUR."
    UnknownSku "unknown_sku" 422 "A line or parameter names an unknown SKU" definite final
        "Put the items that `skus` names first: PUT /v1/items/{sku}."
    KeyReused "key_reused" 422 "The key was used for another request" definite final
        "Make a new key for each write; send the same key only with the same request."
    TooMuch "too_much" 422 "More than there is" definite final
        "Ask for at most `most`."
    TooManyReferences "too_many_references" 422 "The order has no room for another reference" definite final
        "Leave out `reference`, with a new key."
    NoSuchLine "no_such_line" 422 "The order has no such line" definite final
        "Name lines by SKU and location as the order has them."
    MixedCurrency "mixed_currency" 422 "More than one currency in an order" definite final
        "Place one order for each currency."
    OutOfRange "out_of_range" 422 "A sum leaves the range of numbers" definite final
        "Sums may reach 9007199254740991."
    SameLocation "same_location" 422 "A transfer needs two locations" definite final
        "Name two locations."
    TooLate "too_late" 422 "The time is over" definite final
        "Name a time that lies ahead of the cluster's clock."

    // Not now.
    AuditRunning "audit_running" 429 "An audit is running on this node" definite again
        "Wait for it, or ask another node."
    BackupRunning "backup_running" 429 "A backup is being taken from this node" definite again
        "Wait for it, or ask another node."
    NotAMember "not_a_member" 503 "This node is not a member of a cluster" definite again
        "Ask another node, or wait until /readyz passes."
    ShuttingDown "shutting_down" 503 "This node is stopping" definite again
        "Send the request again to another node."
    NoLeader "no_leader" 503 "No leader answered in time" definite again
        "Send the request again, with the same key."
    Overloaded "overloaded" 503 "Too much is in flight" definite again
        "Wait for the seconds in `retry_after_s`, then send the request again, with the same key."
    DeadlineExceeded "deadline_exceeded" 503 "The time was over before anything was proposed" definite again
        "Send the request again, with the same key and perhaps with more time."
    NotServing "not_serving" 503 "This node does not serve now" definite again
        "Send the request again to another node, with the same key."
    Behind "behind" 503 "This node has not applied enough" definite again
        "Send the request again to another node, or later."
    TooStale "too_stale" 503 "This node is too stale, or cannot know" definite again
        "Send the request again to another node, or allow more with `Stockroom-Max-Staleness-Ms`."
    DiskFull "disk_full" 507 "The disks have no room for anything new" definite again
        "Send it again later, with the same key: cancelling, confirming, paying, shipping and reading go on. Whoever runs the cluster makes room on the nodes' disks: `stockctl status` names them, and RUNBOOK, \"Disk\", says how."
    NoRoom "no_room" 507 "This node's disk has no room for it" definite again
        "Ask another node (stockctl: `--from`), or make room on this one's disk: RUNBOOK, \"Disk\"."
    OutcomeUnknown "outcome_unknown" 504 "The outcome is not known" unknown again
        "Send the request again with the same Idempotency-Key: it happens once at most, and you hear the outcome."
    StorageFailed "storage_failed" 500 "This node's storage failed" definite again
        "Ask another node; see this node's log."
    Internal "internal" 500 "A mistake of Stockroom's own" unknown again
        "Report it with the `request_id`; a write may be sent again with the same key."
}
