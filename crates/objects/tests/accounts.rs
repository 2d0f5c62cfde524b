//! Accounts and access keys: what they do at once, and what is left of them after a crash.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::*;
use objects::{AccountId, Accounts, AccountsError, Denial, Error, NewKey, limits};
use simdisk::Rng;

fn account(number: u64) -> AccountId {
    AccountId::from_number(number).unwrap()
}

fn new_key(id: &str, account: AccountId, secret: &str) -> NewKey {
    NewKey {
        access_key_id: id.to_owned(),
        account,
        description: "for a test".to_owned(),
        sealed: sealed(id, account, secret),
    }
}

/// What a key signs for, or why it does not.
fn granted(accounts: &Accounts, id: &str) -> Result<(AccountId, String), Denial> {
    let grant = accounts.grant(id)?;
    Ok((grant.account, grant.secret.expose().to_owned()))
}

#[test]
fn keys_live_and_die_at_once() {
    let world = World::empty(8 << 20);
    let accounts = world.accounts();
    let id = account(123_456_789_012);
    accounts.create_account(id, "analytics").unwrap();
    let info = accounts.create_key(new_key("AK1", id, "secret-1")).unwrap();
    assert!(info.enabled && info.readable && info.account == id);
    assert_eq!(granted(&accounts, "AK1"), Ok((id, "secret-1".to_owned())));
    assert_eq!(granted(&accounts, "AK2"), Err(Denial::Unknown));

    assert!(!accounts.set_key_enabled("AK1", false).unwrap().enabled);
    assert_eq!(granted(&accounts, "AK1"), Err(Denial::KeyDisabled));
    accounts.set_key_enabled("AK1", true).unwrap();
    accounts
        .rotate_key("AK1", sealed("AK1", id, "secret-2"))
        .unwrap();
    assert_eq!(granted(&accounts, "AK1"), Ok((id, "secret-2".to_owned())));

    accounts.set_account_enabled(id, false).unwrap();
    assert_eq!(granted(&accounts, "AK1"), Err(Denial::AccountDisabled));
    accounts.set_account_enabled(id, true).unwrap();
    assert!(granted(&accounts, "AK1").is_ok());

    accounts.delete_key("AK1").unwrap();
    assert_eq!(granted(&accounts, "AK1"), Err(Denial::Unknown));
    for gone in [
        accounts.delete_key("AK1").unwrap_err(),
        accounts.set_key_enabled("AK1", true).unwrap_err(),
        accounts.rotate_key("AK1", vec![1]).unwrap_err(),
        accounts.delete_key(&"x".repeat(5_000)).unwrap_err(),
    ] {
        assert!(matches!(gone, AccountsError::NoSuchKey(_)), "{gone}");
    }
    accounts.delete_account(id).unwrap();
    assert_eq!(
        accounts.accounts(None, 9).len(),
        1,
        "the root account is left"
    );
    // Whoever was let in before creates nothing that nobody could reach.
    let late = block_on(world.objects.create_bucket(&id, "late"));
    assert!(matches!(late, Err(Error::AccessDenied)), "{late:?}");
}

#[test]
fn what_breaks_the_rules_is_refused_and_changes_nothing() {
    let world = World::empty(8 << 20);
    let accounts = world.accounts();
    let id = account(7);
    accounts.create_account(id, "seven").unwrap();
    for (other, name) in [(7, "eight"), (8, "seven"), (0, "zero"), (8, "root")] {
        let error = accounts.create_account(account(other), name).unwrap_err();
        assert!(matches!(error, AccountsError::AccountExists(_)), "{error}");
    }
    let long = "x".repeat(65);
    for name in [
        "",
        "a b",
        "-a",
        "ümlaut",
        "a/b",
        "000000000007",
        "a\nb",
        &long,
    ] {
        let error = accounts.create_account(account(8), name).unwrap_err();
        assert!(matches!(error, AccountsError::BadName { .. }), "{error}");
    }
    for error in [
        accounts
            .set_account_enabled(AccountId::ROOT, false)
            .unwrap_err(),
        accounts.delete_account(AccountId::ROOT).unwrap_err(),
        accounts
            .create_key(new_key("AK", AccountId::ROOT, "s"))
            .unwrap_err(),
    ] {
        assert!(matches!(error, AccountsError::Root), "{error}");
    }
    let error = accounts
        .create_key(new_key("AK", account(8), "s"))
        .unwrap_err();
    assert!(matches!(error, AccountsError::NoSuchAccount(_)), "{error}");
    accounts.create_key(new_key("AK", id, "s")).unwrap();
    let error = accounts.create_key(new_key("AK", id, "t")).unwrap_err();
    assert!(matches!(error, AccountsError::KeyExists(_)), "{error}");
    for description in ["a\nb".to_owned(), "x".repeat(129)] {
        let key = NewKey {
            description,
            ..new_key("AK2", id, "s")
        };
        let error = accounts.create_key(key).unwrap_err();
        assert!(matches!(error, AccountsError::BadDescription { .. }));
    }
    block_on(world.objects.create_bucket(&id, "of-seven")).unwrap();
    let error = accounts.delete_account(id).unwrap_err();
    assert!(
        error.to_string().contains("1 buckets and 1 access keys"),
        "{error}"
    );
    assert_eq!(granted(&accounts, "AK"), Ok((id, "s".to_owned())));
    assert_eq!(accounts.find("seven").unwrap(), id);
    assert_eq!(accounts.accounts(Some(AccountId::ROOT), 9)[0].account, id);
    assert!(accounts.accounts(Some(id), 9).is_empty());
    accounts.create_key(new_key("AL", id, "s")).unwrap();
    assert_eq!(
        accounts.keys(Some(id), Some("AK"), 9)[0].access_key_id,
        "AL"
    );
    assert_eq!(accounts.keys(None, None, 1)[0].access_key_id, "AK");
    accounts.delete_key("AL").unwrap();
    assert_eq!(accounts.find("000000000007").unwrap(), id);
    assert_eq!(accounts.find("root").unwrap(), AccountId::ROOT);
    assert!(accounts.find("000000000008").is_err() && accounts.find("8").is_err());
}

/// Every change that returned is there after the power was cut, and nothing else.
#[test]
fn changes_survive_a_crash() {
    for seed in 0..8 {
        let mut rng = Rng::new(seed);
        let mut world = World::empty(8 << 20);
        let id = account(7);
        let accounts = world.accounts();
        accounts.create_account(id, "seven").unwrap();
        for number in 0..20 {
            let key = format!("AK{number}");
            accounts.create_key(new_key(&key, id, "first")).unwrap();
            match number % 4 {
                0 => drop(accounts.set_key_enabled(&key, false).unwrap()),
                1 => drop(
                    accounts
                        .rotate_key(&key, sealed(&key, id, "second"))
                        .unwrap(),
                ),
                2 => accounts.delete_key(&key).unwrap(),
                _ => {}
            }
        }
        let (keys, owners) = (
            accounts.keys(None, None, usize::MAX),
            accounts.accounts(None, 9),
        );
        drop(accounts);
        for round in 0..3 {
            world = match round {
                2 => world.restart(),
                _ => world.crash(&mut rng),
            };
            let accounts = world.accounts();
            assert_eq!(
                (
                    accounts.keys(None, None, usize::MAX),
                    accounts.accounts(None, 9)
                ),
                (keys.clone(), owners.clone())
            );
            assert_eq!(granted(&accounts, "AK0"), Err(Denial::KeyDisabled));
            assert_eq!(granted(&accounts, "AK1"), Ok((id, "second".to_owned())));
            assert_eq!(granted(&accounts, "AK2"), Err(Denial::Unknown));
            assert_eq!(granted(&accounts, "AK3"), Ok((id, "first".to_owned())));
            assert!(accounts.damage().is_empty());
        }
    }
}

/// A secret that something else sealed is refused, and can be replaced.
#[test]
fn what_cannot_be_unsealed_is_refused_until_it_is_rotated() {
    let world = World::empty(8 << 20);
    let id = account(7);
    let accounts = world.accounts();
    accounts.create_account(id, "seven").unwrap();
    accounts.create_key(new_key("AK", id, "s")).unwrap();
    let other = Accounts::open(&world.objects, Arc::new(Seal(SEAL + 1))).unwrap();
    assert_eq!(granted(&other, "AK"), Err(Denial::Sealed));
    assert!(!other.keys(None, None, 9)[0].readable);
    assert_eq!((other.stats().keys, other.stats().unreadable_keys), (1, 1));
    // Sealed for another key or another account is sealed with something else.
    for wrong in [sealed("AK2", id, "s"), sealed("AK", account(8), "s")] {
        accounts.rotate_key("AK", wrong).unwrap();
        assert_eq!(granted(&accounts, "AK"), Err(Denial::Sealed));
    }
    accounts.rotate_key("AK", sealed("AK", id, "t")).unwrap();
    assert_eq!(granted(&accounts, "AK"), Ok((id, "t".to_owned())));
}

#[test]
fn there_is_a_limit_and_it_says_so() {
    let world = World::empty(64 << 20);
    let accounts = world.accounts();
    let id = account(7);
    accounts.create_account(id, "seven").unwrap();
    for number in 1..limits::IDENTITIES_MAX {
        accounts
            .create_key(new_key(&format!("AK{number}"), id, "s"))
            .unwrap();
    }
    for error in [
        accounts.create_key(new_key("AK", id, "s")).unwrap_err(),
        accounts
            .create_account(account(8), "eight")
            .map(drop)
            .unwrap_err(),
    ] {
        assert!(matches!(error, AccountsError::TooMany { .. }), "{error}");
    }
    accounts.delete_key("AK1").unwrap();
    accounts.create_key(new_key("AK", id, "s")).unwrap();
    let accounts = world.restart().accounts();
    assert_eq!(
        accounts.keys(None, None, usize::MAX).len(),
        limits::IDENTITIES_MAX - 1
    );
}

/// After the end nothing is changed any more.
#[test]
fn a_closed_store_changes_nothing() {
    let world = World::empty(8 << 20);
    let accounts = world.accounts();
    let world = world.restart();
    let error = accounts.create_account(account(7), "seven").unwrap_err();
    assert!(
        matches!(error, AccountsError::Store(Error::Closed)),
        "{error}"
    );
    assert_eq!(world.accounts().accounts(None, 9).len(), 1);
}

/// A damaged record costs its own key, and no other.
#[test]
fn a_damaged_record_costs_only_its_key() {
    let world = World::empty(8 << 20);
    let id = account(7);
    let accounts = world.accounts();
    accounts.create_account(id, "seven").unwrap();
    accounts.create_key(new_key("AK1", id, "s")).unwrap();
    accounts.create_key(new_key("AK2", id, "s")).unwrap();
    let key = [&[1, 0, 0, 0, 0, b'K'][..], b"AK1"].concat();
    world.write_raw(&key, Some(b"\x01nonsense"));
    let accounts = world.accounts();
    assert_eq!(accounts.damage().len(), 1, "{:?}", accounts.damage());
    assert_eq!(granted(&accounts, "AK1"), Err(Denial::Unknown));
    assert!(granted(&accounts, "AK2").is_ok());
    accounts.delete_key("AK1").unwrap();
    assert!(world.accounts().damage().is_empty());
}

/// Disks of before there was an index of accounts' buckets list all of them, from the first
/// start on, also when that start does not get far.
#[test]
fn buckets_of_a_disk_without_their_index_are_listed() {
    let names = |world: &World| -> Vec<String> {
        let page = block_on(world.objects.list_buckets(&ROOT, "", None, 1_000)).unwrap();
        page.buckets.into_iter().map(|bucket| bucket.name).collect()
    };
    let world = World::empty(8 << 20);
    for name in ["aaa", "bbb", "ccc"] {
        block_on(world.objects.create_bucket(&ROOT, name)).unwrap();
    }
    for name in ["aaa", "bbb", "ccc"] {
        let account = [0; 8];
        let key = [&[1, 0, 0, 0, 0, b'A'][..], &account, name.as_bytes()].concat();
        world.write_raw(&key, None);
    }
    assert_eq!(names(&world), [""; 0], "as it is without the index");
    let key = [&[1, 0, 0, 0, 0, b'S'][..], b"account-buckets"].concat();
    world.write_raw(&key, None);
    let world = world.restart();
    assert_eq!(names(&world), ["aaa", "bbb", "ccc"]);
    block_on(world.objects.delete_bucket(&ROOT, "bbb")).unwrap();
    let world = world.restart();
    assert_eq!(names(&world), ["aaa", "ccc"]);
}
