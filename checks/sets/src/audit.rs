//! What there is of each blob, read off the disks without the volume: keys are taken apart here.

use std::collections::{BTreeMap, BTreeSet};

use volume::shardstore::{Engine, Read};

/// A blob's id: its sixteen bytes.
pub type Id = [u8; 16];

/// Of a blob, by stripe and shard: the disks that hold it, and bytes of the payload.
pub type Shards = BTreeMap<(u32, u8), (BTreeSet<usize>, u32)>;

/// All shards on some disks, given with their numbers.
///
/// # Errors
/// What cannot be read, in words.
pub fn shards(engines: &[(usize, Engine)]) -> Result<BTreeMap<Id, Shards>, String> {
    let mut blobs: BTreeMap<Id, Shards> = BTreeMap::new();
    for (number, engine) in engines {
        let snapshot = engine.snapshot();
        let mut from = vec![2];
        loop {
            let page = snapshot.scan(&from, &[3], 64, Read::Blocking);
            let page = page.map_err(|error| format!("disk {number}: {error}"))?;
            for found in &page.entries {
                let key = found.key();
                let [2, rest @ ..] = key else { continue };
                let (Some(id), Some(stripe), Some(shard)) =
                    (rest.first_chunk::<16>(), rest.get(16..20), rest.get(20))
                else {
                    return Err(format!("disk {number} has a key of {} bytes", key.len()));
                };
                let stripe = u32::from_be_bytes(stripe.try_into().unwrap_or_default());
                let at = blobs
                    .entry(*id)
                    .or_default()
                    .entry((stripe, *shard))
                    .or_default();
                at.0.insert(*number);
                at.1 = found.payload_len();
            }
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
    }
    Ok(blobs)
}

/// What a blob lacks: each shard on exactly one disk, no two shards of a stripe on the same one;
/// of what is kept in copies, as many as `copies`.
///
/// # Errors
/// What is not so.
pub fn check(shards: &Shards, stripes: u32, (k, m): (u8, u8), copies: usize) -> Result<(), String> {
    for stripe in 0..stripes {
        let of = shards.range((stripe, 0)..=(stripe, u8::MAX));
        let mut disks: Vec<usize> = Vec::new();
        let mut numbers = BTreeSet::new();
        for ((_, shard), (holders, _)) in of {
            numbers.insert(*shard);
            disks.extend(holders);
        }
        let distinct: BTreeSet<usize> = disks.iter().copied().collect();
        if distinct.len() != disks.len() {
            return Err(format!(
                "stripe {stripe} has two shards on one disk: {disks:?}"
            ));
        }
        let wanted = match k {
            1 => copies,
            k => usize::from(k + m),
        };
        if disks.len() != wanted || (k > 1 && numbers.len() != wanted) {
            return Err(format!(
                "stripe {stripe} of {k}+{m} has shards {numbers:?} on disks {disks:?}, not {wanted}"
            ));
        }
    }
    let beyond = shards.keys().find(|(stripe, _)| *stripe >= stripes);
    match beyond {
        Some((stripe, _)) => Err(format!("stripe {stripe} is not the blob's")),
        None => Ok(()),
    }
}
