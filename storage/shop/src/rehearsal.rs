//! The next cluster version, played before there is one: a `next-version` build claims to know one version more, so that
//! tests can take a cluster of real processes through an upgrade.
//!
//! What it brings is made to show every mistake of a program that does not ask for the cluster's version: a command that
//! older programs cannot read and that every such node proposes at once, in force or not; and a rule that they decide
//! otherwise. Nodes that go by their program instead of the cluster's version differ at once. Nothing of it is in any
//! other build.

#[cfg(feature = "next-version")]
pub use played::*;

#[cfg(feature = "next-version")]
mod played {
    use crate::apply::Ruling;
    use crate::command::PutItem;
    use crate::draft::Draft;
    use crate::ids::Sku;
    use crate::item;
    use crate::version::ClusterVersion;
    use std::sync::Arc;

    /// The version after the newest real one.
    pub const VERSION: ClusterVersion = ClusterVersion(2);
    /// What it switches on.
    pub const BRINGS: &str =
        "rehearsals, which a build for tests alone knows: a command, and a rule for names of items";
    /// The item that each rehearsal writes anew: its version counts them.
    pub const SKU: &str = "rehearsal";

    /// Counts one rehearsal.
    pub(crate) fn rehearse(draft: &mut Draft<'_>) -> Ruling {
        let sku = Sku::new(SKU).expect("visible ASCII");
        let counted = PutItem { sku, name: None, price: None, attributes: None, expected_version: None };
        item::put(draft, &counted)
    }

    /// Before this version an item without a name is named by its SKU alone.
    pub(crate) fn name_of(sku: &Sku, version: ClusterVersion) -> Option<Arc<str>> {
        (version >= VERSION).then(|| format!("{sku}, since version {VERSION}").into())
    }
}

#[cfg(not(feature = "next-version"))]
pub(crate) const fn name_of(
    _: &crate::ids::Sku,
    _: crate::version::ClusterVersion,
) -> Option<std::sync::Arc<str>> {
    None
}
