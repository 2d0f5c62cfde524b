//! What is said of a set of disks: on its page, and to `cullet disk`.

use serde_json::{Value, json};
use volume::{DiskStats, Member, MemberState, VolumeStats};

/// Everything, for programs. Sizes are in bytes.
pub(crate) fn document(stats: &VolumeStats) -> Value {
    let here = stats.disks.iter().map(disk);
    let disks: Vec<Value> = here.chain(stats.absent.iter().map(absent)).collect();
    let ledger = &stats.ledger;
    json!({
        "disks": disks,
        "refuses_writes": stats.refusal,
        "settled": ledger.is_settled,
        // By how many of their shards are missing.
        "stripes": ledger.stripes,
        "stripes_lost": ledger.lost,
        "bytes_owing": ledger.bytes_owing,
        "shards_healed": stats.shards_healed,
        "metadata_copied": stats.metadata_copied,
    })
}

fn disk(disk: &DiskStats) -> Value {
    let state = match (&disk.failure, disk.state) {
        (Some(_), _) => "failed",
        (None, MemberState::Live) => "live",
        (None, _) => "away",
    };
    json!({
        "slot": disk.slot,
        "id": volume::uuid(&disk.identity.disk),
        "path": disk.name,
        "state": state,
        "failure": disk.failure,
        "capacity_bytes": disk.space.capacity,
        "used_bytes": disk.space.capacity - disk.space.free,
        "damage_found": disk.stats.corruptions,
    })
}

fn absent(member: &Member) -> Value {
    json!({
        "slot": member.slot,
        "id": volume::uuid(&member.disk),
        "path": null,
        "state": "missing",
        "failure": null,
        "capacity_bytes": null,
        "used_bytes": null,
        "damage_found": null,
    })
}
