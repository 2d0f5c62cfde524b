use volume::{BlobId, Scheme};

use super::*;
use crate::ChecksumAlgorithm;
use crate::limits::{
    BUCKET_NAME_BYTES_MAX, LABEL_BYTES, METADATA_BYTES_MAX, METADATA_ENTRY_BYTES,
    OBJECT_KEY_BYTES_MAX, PART_TABLE_BYTES_INLINE_MAX, RECORD_BYTES_MAX,
};
use crate::parts::{ENTRY_BYTES_FIXED, TableBuilder};
use crate::random::Random;

fn blob() -> BlobRef {
    BlobRef {
        id: BlobId {
            epoch: 3,
            counter: 9,
        },
        plain_len: 1 << 40,
        stored_len: 1 << 40,
        transforms: Vec::new(),
        scheme: Scheme { k: 1, m: 0 },
        shard_bytes: 1024 * 1024,
    }
}

fn record() -> ObjectRecord {
    ObjectRecord {
        head: ObjectHead {
            flags: Flags::NULL_VERSION,
            size: 1 << 40,
            modified: Timestamp::from_millis(1_700_000_000_123),
            owner: AccountId::from_number(999_999_999_999).unwrap(),
            etag: ETag::from_md5([0xab; 16]),
        },
        body: Body::Blob(blob()),
        metadata: Metadata {
            content_type: Some("text/plain".to_owned()),
            cache_control: Some("no-cache".to_owned()),
            content_disposition: Some("inline".to_owned()),
            content_encoding: Some("gzip".to_owned()),
            content_language: Some("de".to_owned()),
            expires: Some("never".to_owned()),
            user: vec![
                ("a".to_owned(), "1".to_owned()),
                ("b".to_owned(), String::new()),
            ],
        },
        checksum: Checksum::full_object(ChecksumAlgorithm::Sha512, vec![0xcd; 64]),
        unknown: vec![(77, b"later".to_vec())],
    }
}

/// A table of parts of at most so many bytes.
fn parts(bytes_max: usize) -> PartsRef {
    let mut table = TableBuilder::new(None, 0);
    let mut number = 0;
    while table.entries().len() + ENTRY_BYTES_FIXED <= bytes_max {
        number += 1;
        let len = u64::from(number);
        let part = BlobRef {
            plain_len: len,
            stored_len: len,
            ..blob()
        };
        table.push(number, &part, &[]).unwrap();
    }
    table.finish(UploadId(7), None)
}

#[test]
fn an_object_record_survives_its_codec() {
    let cases = [
        record(),
        ObjectRecord {
            body: Body::Inline,
            metadata: Metadata::default(),
            ..record()
        },
        ObjectRecord {
            head: ObjectHead {
                etag: ETag::new("0123-2"),
                ..record().head
            },
            ..record()
        },
        ObjectRecord {
            body: Body::Parts(parts(PART_TABLE_BYTES_INLINE_MAX)),
            ..record()
        },
        // In capitals it is not the hexadecimal form of a digest that decoding would give.
        ObjectRecord {
            head: ObjectHead {
                etag: ETag::new("AB".repeat(16)),
                ..record().head
            },
            ..record()
        },
    ];
    for case in cases {
        let bytes = case.encode().unwrap();
        assert_eq!(ObjectRecord::decode(&bytes).unwrap(), case);
        assert_eq!(ObjectHead::decode(&bytes).unwrap(), case.head);
    }
}

/// The bytes that are on users' disks. This must never change for version 1.
#[test]
fn version_1_is_pinned() {
    let record = ObjectRecord {
        head: ObjectHead {
            flags: Flags::NULL_VERSION,
            size: 5,
            modified: Timestamp::from_millis(0x0102),
            owner: AccountId::ROOT,
            etag: ETag::from_md5([0x11; 16]),
        },
        body: Body::Inline,
        metadata: Metadata {
            content_type: Some("t".to_owned()),
            ..Metadata::default()
        },
        checksum: None,
        unknown: UnknownFields::new(),
    };
    let mut expected = vec![1, 1, 5, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0];
    expected.extend_from_slice(&[0; 8]);
    expected.push(1);
    expected.extend_from_slice(&[0x11; 16]);
    expected.extend_from_slice(&[1, 1, 0, b't']);
    assert_eq!(record.encode().unwrap(), expected);
    let label = BlobLabel {
        role: BlobRole::Object,
        bucket: BucketId(2),
        bucket_name: "b".into(),
        key: "k".into(),
    };
    let expected = [1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 1, b'b', 1, 0, b'k'];
    assert_eq!(label.encode().unwrap(), expected);
}

#[test]
fn a_critical_field_that_is_not_known_refuses_the_record() {
    let mut bytes = record().encode().unwrap();
    put_field(&mut bytes, 200, b"encryption").unwrap();
    let error = ObjectRecord::decode(&bytes).unwrap_err();
    assert!(error.to_string().contains("newer"), "{error}");
    assert!(ObjectHead::decode(&bytes).is_ok());
    bytes[0] = 2;
    assert!(ObjectHead::decode(&bytes).is_err());
}

#[test]
fn bucket_records_and_labels_survive_their_codecs() {
    let bucket = BucketRecord {
        id: BucketId(5),
        account: AccountId::ROOT,
        created: Timestamp::from_millis(6),
        flags: 0x40,
        region: "us-east-1".to_owned(),
        unknown: vec![(9, vec![1])],
    };
    let bytes = bucket.encode().unwrap();
    assert_eq!(BucketRecord::decode(&bytes).unwrap(), bucket);
    let label = BlobLabel {
        role: BlobRole::Part {
            upload: UploadId(u64::MAX),
            number: 10_000,
        },
        bucket: BucketId(5),
        bucket_name: "n".repeat(BUCKET_NAME_BYTES_MAX),
        key: "k".repeat(OBJECT_KEY_BYTES_MAX),
    };
    let bytes = label.encode().unwrap();
    assert_eq!(bytes.len(), LABEL_BYTES);
    assert_eq!(BlobLabel::decode(&bytes).unwrap(), label);
    assert!(BlobLabel::decode(&bytes[..bytes.len() - 1]).is_err());
}

#[test]
fn no_bytes_make_a_decoder_panic() {
    let whole = record().encode().unwrap();
    for cut in 0..whole.len() {
        let _ = ObjectRecord::decode(&whole[..cut]);
        assert!(ObjectHead::decode(&whole[..cut.min(42)]).is_err());
    }
    let mut random = Random::new(5);
    for _ in 0..50_000 {
        let mut bytes = whole.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
        let _ = ObjectRecord::decode(&bytes);
        let mut noise = random.bytes(64);
        if let Some(first) = noise.first_mut() {
            *first = 1;
        }
        let _ = ObjectRecord::decode(&noise);
        let _ = BucketRecord::decode(&noise);
        let _ = BlobLabel::decode(&noise);
    }
}

/// What the limits let through must fit into a blob's trailer and an entry's value.
#[test]
fn the_largest_record_is_within_its_bound() {
    let mut user = Vec::new();
    let mut left = METADATA_BYTES_MAX;
    while left > METADATA_ENTRY_BYTES {
        user.push(("n".to_owned(), String::new()));
        left -= METADATA_ENTRY_BYTES + 1;
    }
    let head = ObjectHead {
        etag: ETag::new("e".repeat(ETAG_BYTES_MAX)),
        ..record().head
    };
    let metadata = Metadata {
        user,
        ..Metadata::default()
    };
    let largest = ObjectRecord {
        head,
        metadata,
        body: Body::Parts(parts(PART_TABLE_BYTES_INLINE_MAX)),
        unknown: UnknownFields::new(),
        ..record()
    };
    let len = largest.encode().unwrap().len();
    assert!(len <= RECORD_BYTES_MAX, "{len}");
}
