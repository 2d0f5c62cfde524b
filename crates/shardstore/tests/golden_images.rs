//! Images of every format that was ever released open, for ever, and hold what they held.
//!
//! A new image is written by `cargo run -p shardstore --example golden-image FILE`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use golden::{content, options, unpack};
use shardstore::rescue::Rescue;
use shardstore::{Disk, Read, Store};
use support::MemoryDisk;

mod golden;
mod support;

#[test]
fn version_1_opens_and_holds_what_it_held() {
    let bytes = unpack(include_bytes!("golden/v1.pages"));
    let disk = MemoryDisk::new(bytes.len());
    disk.write(0, &[&bytes]).unwrap();

    let rescue = Rescue::read(disk.clone(), |_, _| {}).unwrap();
    let mut rescued = BTreeMap::new();
    for entry in rescue.entries() {
        let payload = rescue.read_payload(&entry, 0..u32::MAX).unwrap();
        rescued.insert(entry.key.to_vec(), (entry.value.to_vec(), payload));
    }
    let mut without_counters = content();
    without_counters.remove(&b"counter"[..]);
    assert_eq!(rescued, without_counters);
    assert_eq!(rescue.damage_count(), 0);

    let store = Store::open(disk, options()).unwrap();
    assert_eq!(store.identity(), golden::IDENTITY);
    let snapshot = store.snapshot();
    let page = snapshot.scan(b"", b"\xff", 1000, Read::Blocking).unwrap();
    let mut found = BTreeMap::new();
    for entry in &page.entries {
        let payload = snapshot
            .read_payload(entry, 0..u32::MAX, Read::Blocking)
            .unwrap();
        found.insert(entry.key().to_vec(), (entry.value().to_vec(), payload));
    }
    assert_eq!(found, content());
    let stemmed = snapshot.first(b"stem\0", Read::Blocking).unwrap().unwrap();
    assert_eq!(stemmed.value(), b"stemmed");
    for extent in 0..store.extents() {
        assert!(store.scrub(extent).unwrap().is_empty());
    }
}
