//! Writes the image of a disk that `tests/golden_images.rs` opens. Run it once per released
//! format, and keep what it wrote for ever.
#![allow(
    clippy::unwrap_used,
    reason = "a tool for developers fails by panicking"
)]

use shardstore::Store;

#[path = "../tests/golden/mod.rs"]
mod golden;
#[path = "../tests/support/mod.rs"]
mod support;

fn main() {
    let file = std::env::args().nth(1).expect("name the file to write");
    let disk = support::MemoryDisk::new(golden::DISK_BYTES);
    Store::format(&*disk, golden::IDENTITY, golden::GEOMETRY).unwrap();
    let store = Store::open(disk.clone(), golden::options()).unwrap();
    golden::fill(&store);
    drop(store);
    std::fs::write(file, golden::pack(&disk.bytes.lock().unwrap())).unwrap();
}
