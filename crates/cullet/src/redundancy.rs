//! What is said of a set of disks: on its page, and to `cullet disk`.

use serde_json::{Value, json};
use volume::{DiskStats, Member, MemberState, ScrubProgress, VolumeStats};

use crate::time_text::rfc3339_millis;

/// Everything, for programs. Sizes are in bytes.
pub(crate) fn document(stats: &VolumeStats) -> Value {
    let here = stats.disks.iter().map(disk);
    let joining = stats.joining.iter().map(|path| joining(path));
    let disks: Vec<Value> = here
        .chain(stats.absent.iter().map(absent))
        .chain(joining)
        .collect();
    let ledger = &stats.ledger;
    json!({
        "disks": disks,
        // Data and parity shards of what is written while all disks are there.
        "scheme": stats.scheme.map(|scheme| scheme.to_string()),
        "refuses_writes": stats.refusal,
        "settled": ledger.is_settled,
        // By how many of their shards are missing.
        "stripes": ledger.stripes,
        "stripes_lost": ledger.lost,
        "bytes_owing": ledger.bytes_owing,
        "healing": stats.healing.map(|healing| json!({
            "stripes_done": healing.stripes_done,
            "stripes": healing.stripes,
            "seconds_left": healing.left.map(|left| left.as_secs_f64()),
        })),
        "seconds_to_safety": seconds_to_safety(stats),
        "shards_healed": stats.shards_healed,
        "metadata_copied": stats.metadata_copied,
        "shards_moved": stats.shards_moved,
        "shards_stuck": stats.shards_stuck,
        "tidy": stats.is_tidy,
    })
}

/// How long until everything has all of its shards: 0 if it has, `None` if nobody can tell, because
/// a disk is missing for it or the walk over the stripes has just begun.
pub(crate) fn seconds_to_safety(stats: &VolumeStats) -> Option<f64> {
    let is_owing = stats.ledger.owing() > 0;
    match &stats.healing {
        Some(healing) if is_owing || !stats.ledger.is_settled => {
            healing.left.map(|left| left.as_secs_f64())
        }
        _ if is_owing || !stats.ledger.is_settled => None,
        _ => Some(0.0),
    }
}

fn disk(disk: &DiskStats) -> Value {
    let state = match (&disk.failure, disk.state) {
        (Some(_), _) => "failed",
        (None, MemberState::Live) if disk.is_draining => "draining",
        (None, MemberState::Live) => "live",
        (None, _) => "away",
    };
    json!({
        "slot": disk.slot,
        "id": volume::uuid(&disk.identity.disk),
        "path": disk.name,
        "state": state,
        "failure": disk.failure,
        "slow": disk.is_slow,
        "capacity_bytes": disk.space.capacity,
        "used_bytes": disk.space.capacity - disk.space.free,
        "damage_found": disk.stats.corruptions,
        "scrub": scrub(&disk.scrub),
    })
}

fn scrub(progress: &ScrubProgress) -> Value {
    let ended = (progress.ended_ms > 0).then(|| rfc3339_millis(progress.ended_ms));
    json!({
        "extent": progress.extent,
        "extents": progress.extents,
        "asked": progress.is_asked,
        "began_ms": progress.began_ms,
        "ended_ms": progress.ended_ms,
        "ended": ended,
        "damage": progress.damage,
        "damage_last": progress.damage_last,
    })
}

/// The disk that makes a set of several out of one, when it has all metadata.
fn joining(path: &str) -> Value {
    json!({
        "slot": null,
        "id": null,
        "path": path,
        "state": "joining",
        "failure": null,
        "capacity_bytes": null,
        "used_bytes": null,
        "damage_found": null,
        "scrub": null,
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
        "scrub": null,
    })
}
