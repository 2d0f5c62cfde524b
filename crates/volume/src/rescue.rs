//! What disks say of the set that they are of, read off them without a server.

use crate::membership::Membership;
use crate::slices::SliceMap;

/// The engine keys of what each disk says of its set.
pub const MEMBERSHIP_KEY: &[u8] = b"\x03set";
/// See [`MEMBERSHIP_KEY`].
pub const SLICES_KEY: &[u8] = b"\x03slices";

/// What one disk says: the values under [`MEMBERSHIP_KEY`] and [`SLICES_KEY`], as far as they can
/// be read.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// Who belongs to the set.
    pub membership: Option<Vec<u8>>,
    /// Which disks hold the metadata.
    pub slices: Option<Vec<u8>>,
}

/// A set by the newest that any of its disks says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetOnDisks {
    /// The UUIDs of the disks that belong to it.
    pub members: Vec<[u8; 16]>,
    /// Of those among them whose metadata is that of the set. What other disks have of metadata
    /// was, some time ago.
    pub metadata: Vec<[u8; 16]>,
}

/// What disks say together. `None`: none of them says that it is one of several, so that it is the
/// only one of its set, or nothing is left of what it said.
pub fn set_of(disks: &[Said]) -> Option<SetOnDisks> {
    let understood = |said: &Said| {
        let membership = Membership::decode(said.membership.as_deref()?).ok()?;
        let slices = SliceMap::decode(said.slices.as_deref()?).ok()?;
        Some((membership, slices))
    };
    let newest = disks
        .iter()
        .filter_map(understood)
        .max_by_key(|(membership, slices)| (membership.age(), slices.version()));
    let (membership, slices) = newest?;
    let disk = |slot: &u8| Some(membership.at(usize::from(*slot))?.disk);
    Some(SetOnDisks {
        members: membership.active().map(|member| member.disk).collect(),
        metadata: slices.disks().iter().filter_map(disk).collect(),
    })
}
