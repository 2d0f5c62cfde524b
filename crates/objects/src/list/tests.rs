use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::*;
use crate::model::Model;
use crate::random::Random;
use volume::block_on;

const BUCKET: BucketId = BucketId(5);

fn walk<'a>(prefix: &'a str, delimiter: Option<&'a str>, max: usize) -> Walk<'a> {
    Walk {
        slice: SliceId::ROOT,
        bucket: BUCKET,
        rollup: Rollup { prefix, delimiter },
        start_after: None,
        max,
        versions: false,
    }
}

/// Objects as `=key`, common prefixes as `~prefix`.
fn show(items: &[Item]) -> Vec<String> {
    let show = |item: &Item| match item {
        Item::Version { key, .. } => format!("={key}"),
        Item::CommonPrefix(prefix) => format!("~{prefix}"),
    };
    items.iter().map(show).collect()
}

/// What a listing is, word by word: filter, roll up, skip, cut.
fn naive(keys: &BTreeSet<String>, walk: &Walk<'_>) -> (Vec<String>, bool) {
    let after = walk.start_after.unwrap_or("");
    let mut shown = Vec::new();
    for key in keys {
        let skipped = walk.start_after.is_some()
            && (key.as_str() <= after
                || walk.rollup.common_prefix(after) == Some(after) && key.starts_with(after));
        if !key.starts_with(walk.rollup.prefix) || skipped {
            continue;
        }
        let item = match walk
            .rollup
            .delimiter
            .and_then(|d| key[walk.rollup.prefix.len()..].split_once(d))
        {
            Some((head, _)) => {
                format!(
                    "~{}{head}{}",
                    walk.rollup.prefix,
                    walk.rollup.delimiter.unwrap_or_default()
                )
            }
            None => format!("={key}"),
        };
        if shown.last() != Some(&item) {
            shown.push(item);
        }
    }
    let more = shown.len() > walk.max && walk.max > 0;
    shown.truncate(walk.max);
    (shown, more)
}

fn random_text(random: &mut Random, max: usize) -> String {
    let alphabet = ['a', 'b', '/', '/', '\0', 'é', '\u{ff}'];
    (0..random.below(max + 1))
        .map(|_| alphabet[random.below(alphabet.len())])
        .collect()
}

/// A bucket with keys, some of them with older versions or deleted, between two others.
fn random_bucket(random: &mut Random) -> (Model, BTreeSet<String>) {
    let (mut model, mut live) = (Model::default(), BTreeSet::new());
    let mut used = BTreeSet::new();
    for neighbour in [BucketId(4), BucketId(6)] {
        model.put_object(neighbour, "a", 1, Flags::NULL_VERSION);
    }
    for _ in 0..random.below(60) {
        let mut key = random_text(random, 5);
        key.push_str(["", "x", "/y"][random.below(3)]);
        if key.is_empty() || !used.insert(key.clone()) {
            continue;
        }
        let versions = 1 + random.below(3) as u64;
        for sequence in 1..=versions {
            model.put_object(BUCKET, &key, sequence, Flags::default());
        }
        live.insert(key.clone());
        if random.below(5) == 0 {
            model.put_object(BUCKET, &key, versions + 1, Flags::DELETE_MARKER);
            live.remove(&key);
        }
    }
    (model, live)
}

#[test]
fn a_listing_is_what_the_naive_one_is() {
    let mut random = Random::new(11);
    for round in 0..3_000 {
        let (model, live) = random_bucket(&mut random);
        for _ in 0..4 {
            let prefix = random_text(&mut random, 2);
            let delimiter = ["/", "a", "//", "é"][random.below(4)];
            let after = match random.below(3) {
                0 => None,
                1 => Some(random_text(&mut random, 4)),
                _ => live.iter().nth(random.below(live.len() + 1)).cloned(),
            };
            let mut walk = walk(&prefix, Some(delimiter), random.below(12));
            walk.rollup.delimiter = walk.rollup.delimiter.filter(|_| random.below(4) != 0);
            walk.start_after = after.as_deref();
            let (items, more) = block_on(walk.run(&model)).unwrap();
            let (expected, expected_more) = naive(&live, &walk);
            let case = (round, &prefix, walk.rollup.delimiter, &after, walk.max);
            assert_eq!(show(&items), expected, "{case:?}");
            assert_eq!(more, expected_more, "{case:?}");
        }
    }
}

#[test]
fn pages_together_are_the_whole() {
    let mut random = Random::new(12);
    for round in 0..1_000 {
        let (model, live) = random_bucket(&mut random);
        let delimiter = [None, Some("/"), Some("a/")][random.below(3)];
        let prefix = random_text(&mut random, 1);
        let whole = naive(&live, &walk(&prefix, delimiter, 1_000)).0;
        let (mut pages, mut after) = (Vec::new(), None::<String>);
        loop {
            let mut walk = walk(&prefix, delimiter, 1 + random.below(4));
            walk.start_after = after.as_deref();
            let (items, more) = block_on(walk.run(&model)).unwrap();
            pages.extend(show(&items));
            match items.last().filter(|_| more) {
                Some(last) => after = Some(last.name().to_owned()),
                None => break,
            }
        }
        assert_eq!(pages, whole, "{round} {prefix:?} {delimiter:?}");
    }
}

/// The reason for the skip: a bucket of a few large folders is listed in a few reads.
#[test]
fn a_common_prefix_is_not_walked() {
    let mut model = Model::default();
    for folder in 0..10 {
        for file in 0..2_000 {
            model.put_object(BUCKET, &format!("{folder}/{file:04}"), 1, Flags::default());
        }
    }
    let (items, more) = block_on(walk("", Some("/"), 1_000).run(&model)).unwrap();
    assert_eq!((items.len(), more), (10, false));
    let scans = model.scans.load(Ordering::Relaxed);
    assert!(scans <= 2 * 10 + 1, "{scans} pages were fetched");
}

/// A page of the longest names ends early, and the next one goes on where it ended.
#[test]
fn a_page_is_bounded_by_bytes() {
    let mut model = Model::default();
    let key = |n: usize| format!("{n:04}{}", "x".repeat(1_020));
    for n in 0..600 {
        model.put_object(BUCKET, &key(n), 1, Flags::default());
    }
    let (mut seen, mut after) = (0, None::<String>);
    loop {
        let mut walk = walk("", None, 1_000);
        walk.start_after = after.as_deref();
        let (items, more) = block_on(walk.run(&model)).unwrap();
        let bytes: usize = items.iter().map(|item| item.name().len()).sum();
        assert!(!items.is_empty() && bytes < LIST_NAME_BYTES_MAX + 1_024);
        for item in &items {
            assert_eq!(item.name(), key(seen));
            seen += 1;
        }
        match items.last().filter(|_| more) {
            Some(last) => after = Some(last.name().to_owned()),
            None => break,
        }
    }
    assert_eq!(seen, 600);
}

#[test]
fn every_version_is_listed_newest_first() {
    let mut model = Model::default();
    for (key, sequence) in [("a", 1), ("a", 2), ("b", 3)] {
        model.put_object(BUCKET, key, sequence, Flags::default());
    }
    let mut all = walk("", None, 10);
    all.versions = true;
    let (items, _) = block_on(all.run(&model)).unwrap();
    let seen = items.iter().map(|item| match item {
        Item::Version {
            key,
            head,
            is_latest,
        } => (key.as_str(), head.size, *is_latest),
        Item::CommonPrefix(_) => unreachable!("there is no delimiter"),
    });
    let expected = [("a", 2, true), ("a", 1, false), ("b", 3, true)];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
}

#[test]
fn a_damaged_record_is_an_error() {
    let mut model = Model::default();
    model.put_object(BUCKET, "a", 1, Flags::default());
    for value in model.entries.values_mut() {
        value.truncate(5);
    }
    let error = block_on(walk("", None, 10).run(&model)).err();
    assert!(matches!(error, Some(Error::Corrupt { .. })), "{error:?}");
}
