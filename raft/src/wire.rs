//! openraft message <-> bytes, through storage's codec; and who a frame is from and meant for.

use crate::proto::{MemberInfo, RaftFrame, Route, Versions as VersionsInfo};
use bytes::Bytes;
use stockroom_storage::codec::rpc_types::{RpcMessage, decode_rpc, encode_rpc};
use stockroom_storage::identity::Identity;
use stockroom_storage::shop::version::{ClusterVersion, Versions};
use stockroom_storage::type_config::Member;
use tonic::Status;

/// tonic's limit on one message, both ways. Above every limit on what is put into one: appends
/// have at most 4 MiB, forwarded frames at most [`crate::forward::FRAME_BYTES`] and one proposal, answers at most twice
/// [`crate::proposer::ANSWERS_BYTES`] and two answers.
pub(crate) const MESSAGE_LIMIT_BYTES: usize = 32 << 20;

/// A cluster id as it stands in frames.
pub(crate) fn cluster_id_bytes(cluster_id: u128) -> Bytes {
    Bytes::copy_from_slice(&cluster_id.to_be_bytes())
}

/// A cluster id from a frame; `None` where there is none.
pub(crate) fn cluster_id(bytes: &Bytes) -> Option<u128> {
    wide(bytes)
}

/// 16 bytes, big-endian, as a number.
pub(crate) fn wide(bytes: &Bytes) -> Option<u128> {
    Some(u128::from_be_bytes(bytes.as_ref().try_into().ok()?))
}

/// The route of what `from` sends to a member.
pub(crate) fn route(from: &Identity, to_node: u64, to_incarnation: u64) -> Route {
    Route {
        cluster_id: cluster_id_bytes(from.cluster_id),
        group_id: from.group_id,
        from_node: from.node_id,
        from_incarnation: from.incarnation,
        to_node,
        to_incarnation,
        cluster_version: 0,
    }
}

/// What a program serves, as frames have it.
pub(crate) fn versions_info(served: Versions) -> VersionsInfo {
    VersionsInfo { oldest: served.oldest.0, newest: served.newest.0 }
}

/// What a program serves, from a frame. One that does not say so is of the first release.
pub(crate) fn versions(info: Option<VersionsInfo>) -> Versions {
    let (oldest, newest) = info.map_or((0, 0), |info| (info.oldest, info.newest));
    let version = |number| ClusterVersion(number).max(ClusterVersion::FIRST);
    Versions { oldest: version(oldest), newest: version(newest) }
}

/// Checks that a frame is meant for `own`.
pub(crate) fn check(route: Option<&Route>, own: &Identity) -> Result<(), Refused> {
    let route = route.ok_or_else(|| Refused("the frame does not say who it is for".into()))?;
    let theirs = cluster_id(&route.cluster_id);
    if theirs != Some(own.cluster_id) {
        return Err(Refused(format!(
            "this node belongs to cluster {:032x}, the frame to cluster {:032x}",
            own.cluster_id,
            theirs.unwrap_or_default()
        )));
    }
    if route.group_id != own.group_id || route.to_node != own.node_id {
        return Err(Refused(format!(
            "this is node {} of group {}, the frame is for node {} of group {}",
            own.node_id, own.group_id, route.to_node, route.group_id
        )));
    }
    if route.to_incarnation != 0 && route.to_incarnation != own.incarnation {
        return Err(Refused(format!(
            "node {} has another data directory than the one the sender knows",
            own.node_id
        )));
    }
    Ok(())
}

/// A frame that is not meant for its receiver.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        Status::failed_precondition(refused.0)
    }
}

/// One of openraft's messages on its way.
pub(crate) fn frame<M: RpcMessage>(route: &Route, message: &M) -> RaftFrame {
    RaftFrame { route: Some(route.clone()), payload: encode_rpc(message), acknowledged: None }
}

/// One of openraft's messages from a frame whose route was checked.
pub(crate) fn message<M: RpcMessage>(frame: &RaftFrame) -> Result<M, Status> {
    decode_rpc(&frame.payload).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// A member as frames have it.
pub(crate) fn member_info(node_id: u64, member: &Member, voter: bool) -> MemberInfo {
    MemberInfo {
        node_id,
        incarnation: member.incarnation,
        peer_address: member.peer_address.clone(),
        http_address: member.http_address.clone(),
        voter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Identity = Identity { cluster_id: 7, node_id: 2, incarnation: 22, group_id: 0 };
    const PEER: Identity = Identity { cluster_id: 7, node_id: 1, incarnation: 11, group_id: 0 };

    #[test]
    fn a_frame_for_another_cluster_node_group_or_disk_is_refused() {
        assert_eq!(check(Some(&route(&PEER, 2, 22)), &OWN), Ok(()));
        assert_eq!(check(Some(&route(&PEER, 2, 0)), &OWN), Ok(()));
        for foreign in [
            route(&Identity { cluster_id: 8, ..PEER }, 2, 22),
            route(&Identity { group_id: 1, ..PEER }, 2, 22),
            route(&PEER, 3, 22),
            route(&PEER, 2, 23),
            Route { cluster_id: Bytes::new(), ..route(&PEER, 2, 22) },
        ] {
            assert!(check(Some(&foreign), &OWN).is_err(), "{foreign:?}");
        }
        assert!(check(None, &OWN).is_err());
    }
}
