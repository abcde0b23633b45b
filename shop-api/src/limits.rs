//! What a request may be at most.

use std::time::Duration;

/// Every limit of the door. Each has an error code of its own, so that whoever runs into one can
/// tell which to raise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest body in bytes (`body_too_large`).
    pub body_bytes: usize,
    /// Largest body of `/v1/batch` in bytes (`body_too_large`).
    pub batch_body_bytes: usize,
    /// How deep JSON may nest (`too_deep`). In a batch it is counted for the body of each command.
    pub json_depth: usize,
    /// Lines of one command (`too_many_lines`).
    pub lines: usize,
    /// SKUs of one read (`too_many_skus`).
    pub skus_per_read: usize,
    /// Ids and keys in bytes (`id_too_long`); the shop's own types allow no more than 128.
    pub id_bytes: usize,
    /// Entries of an order's metadata as it is placed (`too_much_metadata`). That of the cluster's
    /// settings holds beside it, for patches too.
    pub metadata_entries: usize,
    /// Key or value of a metadata entry, in bytes (`metadata_too_long`).
    pub metadata_bytes: usize,
    /// Attributes of an item in bytes, as canonical JSON (`attributes_too_large`).
    pub attributes_bytes: usize,
    /// Names, reasons and references in bytes (`text_too_long`).
    pub text_bytes: usize,
    /// Commands of one batch (`too_many_commands`).
    pub batch_commands: usize,
    /// Rows of one page (`invalid_parameter`).
    pub page_rows: usize,
    /// Rows of a page whose size nobody asked for.
    pub default_page_rows: usize,
    /// How long a request may take; `Stockroom-Timeout-Ms` shortens it.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: 1 << 20,
            batch_body_bytes: 8 << 20,
            json_depth: 32,
            lines: 500,
            skus_per_read: 100,
            id_bytes: 128,
            metadata_entries: 16,
            metadata_bytes: 256,
            attributes_bytes: 4 << 10,
            text_bytes: 512,
            batch_commands: 1_000,
            page_rows: 1_000,
            default_page_rows: 50,
            timeout: Duration::from_millis(5_000),
        }
    }
}
