//! What a golden image holds, and how it is kept in a file: only pages that are not all zeros,
//! each behind its number, so that an image of a disk is small enough for the repository.
#![allow(
    dead_code,
    reason = "the test and the program that writes images use half each"
)]

use std::collections::BTreeMap;

use shardstore::{Batch, Geometry, Identity, Key, Options, Store};

const PAGE: usize = 4096;

pub const IDENTITY: Identity = Identity {
    disk: *b"golden image v1.",
    set: *b"golden set v1...",
};
pub const GEOMETRY: Geometry = Geometry {
    extent_bytes: 64 * 1024,
    payload_bytes_max: 16 * 1024,
};
pub const DISK_BYTES: usize = 1024 * 1024 + 16 * 64 * 1024;

pub fn options() -> Options {
    Options {
        memtable_bytes: 64 * 1024,
        table_bytes: 4096,
        cache_bytes: 16 * 1024,
        clock: || 1_700_000_000_000,
        ..Options::default()
    }
}

/// Every live key with its value and payload.
pub fn content() -> BTreeMap<Vec<u8>, (Vec<u8>, Vec<u8>)> {
    let mut content = BTreeMap::new();
    for number in 0..40u8 {
        if number % 5 == 0 {
            continue;
        }
        let key = format!("plain/{number:02}").into_bytes();
        content.insert(key, (vec![number; 20], vec![number; 97 * number as usize]));
    }
    content.insert(
        b"stem\0newest".to_vec(),
        (b"stemmed".to_vec(), b"body".to_vec()),
    );
    content.insert(
        b"counter".to_vec(),
        ([5i64.to_le_bytes(), (-2i64).to_le_bytes()].concat(), vec![]),
    );
    content.insert(
        b"tail".to_vec(),
        (b"behind the checkpoint".to_vec(), vec![0xee; 5000]),
    );
    content
}

/// Makes that content in a way that leaves every kind of frame on the disk: batches, moved
/// entries, tables of two levels, tombstones, merges, and a tail behind the last checkpoint.
pub fn fill(store: &Store) {
    let submit = |batch: Batch| {
        let dependency = store.submit(batch).unwrap();
        while store.pump().unwrap() {}
        dependency.wait().unwrap();
    };
    for round in 0..2u8 {
        for number in 0..40u8 {
            let payload = vec![
                number;
                if round == 0 {
                    300
                } else {
                    97 * number as usize
                }
            ];
            let key = Key::plain(format!("plain/{number:02}"));
            submit(Batch::new().put_with_payload(key, vec![number; 20], payload));
            if number % 10 == 9 {
                store.checkpoint().unwrap();
            }
        }
        while store.compact().unwrap() {}
        while store.reclaim(None).unwrap().is_some() {}
        store.checkpoint().unwrap();
    }
    submit((0..40u8).step_by(5).fold(Batch::new(), |batch, number| {
        batch.delete(Key::plain(format!("plain/{number:02}")))
    }));
    let stemmed = Key::with_stem(*b"stem\0newest", 5);
    submit(Batch::new().put_with_payload(stemmed, *b"stemmed", *b"body"));
    submit(Batch::new().merge(Key::plain(*b"counter"), &[3, -2]));
    store.checkpoint().unwrap();
    submit(Batch::new().merge(Key::plain(*b"counter"), &[2]));
    let tail = Key::plain(*b"tail");
    submit(Batch::new().put_with_payload(tail, *b"behind the checkpoint", vec![0xee; 5000]));
}

pub fn pack(disk: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, page) in disk.chunks(PAGE).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            out.extend_from_slice(&(number as u32).to_le_bytes());
            out.extend_from_slice(page);
        }
    }
    out
}

pub fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut disk = vec![0; DISK_BYTES];
    for page in packed.chunks(4 + PAGE) {
        let number = u32::from_le_bytes(page[..4].try_into().unwrap()) as usize;
        disk[number * PAGE..(number + 1) * PAGE].copy_from_slice(&page[4..]);
    }
    disk
}
