//! expiry
use super::Verdict;
use crate::history::History;
/// x
pub fn check(_h: &History) -> Verdict {
    Verdict::not_decided("expiry", "not yet")
}
