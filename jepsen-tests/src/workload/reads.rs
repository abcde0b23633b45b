//! Reads that workloads share.

use crate::history::{Call, Consistency};

/// Stock, linearizable.
pub fn stock<'a>(skus: impl IntoIterator<Item = &'a String>) -> Call {
    stock_at(skus, Consistency::Linearizable)
}

/// Stock.
pub fn stock_at<'a>(skus: impl IntoIterator<Item = &'a String>, consistency: Consistency) -> Call {
    Call::ReadStock { skus: skus.into_iter().cloned().collect(), consistency }
}

/// Movements, linearizable.
pub fn movements<'a>(skus: impl IntoIterator<Item = &'a String>) -> Call {
    Call::ReadMovements { skus: skus.into_iter().cloned().collect(), consistency: Consistency::Linearizable }
}
