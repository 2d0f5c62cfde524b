//! Accounts and their access keys: kept on the disks, and held in a table in memory that every
//! request asks.
//!
//! What must always hold:
//! - a change is durable before the table shows it, and the table shows it before the call
//!   returns: the next request meets it, and so does the next start, whatever ends this one;
//! - changes happen one at a time. They block, so that nobody who goes away leaves one that is
//!   on the disks and not in the table;
//! - a lookup waits for no disk and for no change on its way to one;
//! - a secret reaches the disks only sealed, by whoever [`Unseal`]s it again; here it is bytes;
//! - the account [`AccountId::ROOT`] is always there and enabled, and has no record and no keys
//!   here: its key is not kept on the disks.
//!
//! Apart from [`Error`], which a front door maps variant by variant, stands [`AccountsError`]:
//! none of it can happen to a request of S3.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use volume::MetaBatch;
use zeroize::Zeroizing;

use crate::codec::counters;
use crate::identity::{AccountRecord, KeyRecord};
use crate::keys::{
    access_key, access_key_range, account_key, decode_meta_key, identity_key, identity_range,
};
use crate::limits::{
    ACCESS_KEY_ID_BYTES_MAX, ACCOUNT_NAME_BYTES_MAX, IDENTITIES_MAX, KEY_DESCRIPTION_BYTES_MAX,
    SCAN_CHUNK_MAX, SEALED_BYTES_MAX,
};
use crate::meta_store::MetaView;
use crate::objects::Inner;
use crate::rescue::MetaKey;
use crate::scan::Scan;
use crate::{AccountId, Error, Objects, Timestamp};
use volume::block_on;

/// The name of the account that is always there.
const ROOT_NAME: &str = "root";

/// A secret access key in the clear: wiped from memory when the last clone goes, and never
/// shown by `Debug`.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Takes the text over; the caller keeps no copy.
    pub fn new(text: String) -> Secret {
        Secret(Arc::new(Zeroizing::new(text)))
    }

    /// The text, for whoever signs or verifies.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether this is that very secret, not merely one with the same text: what was derived
    /// from that one counts for this one.
    pub fn is(&self, other: &Secret) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Opens what secrets were sealed with.
pub trait Unseal: Send + Sync + 'static {
    /// The secret of this key of this account; `None` if it was sealed with something else.
    /// Must not block.
    fn unseal(&self, access_key_id: &str, account: AccountId, sealed: &[u8]) -> Option<Secret>;
}

/// An account, for lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountInfo {
    /// Twelve digits.
    pub account: AccountId,
    /// Unique.
    pub name: String,
    /// `None` for the root account, which was always there.
    pub created: Option<Timestamp>,
    /// Whether its keys are accepted.
    pub enabled: bool,
    /// How many access keys it has here.
    pub keys: usize,
}

/// An access key, for lists. Never holds the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// What requests name it by.
    pub access_key_id: String,
    /// Whose it is.
    pub account: AccountId,
    /// When it was created.
    pub created: Timestamp,
    /// When its secret was made.
    pub rotated: Timestamp,
    /// Whether it is accepted, as far as it is up to the key.
    pub enabled: bool,
    /// Whether its secret could be unsealed. If not, the key is refused.
    pub readable: bool,
    /// What it is for, in the words of whoever created it.
    pub description: String,
}

/// What becomes an access key.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// At most 128 printable ASCII characters.
    pub access_key_id: String,
    /// Whose it will be; not the root account's.
    pub account: AccountId,
    /// At most 128 bytes, without control characters.
    pub description: String,
    /// The secret, at most 512 bytes.
    pub sealed: Vec<u8>,
}

/// Who signs with a key, and its secret.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Whose the key is.
    pub account: AccountId,
    /// What it signs with.
    pub secret: Secret,
}

/// Why a key is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// No such key.
    Unknown,
    /// The key is disabled.
    KeyDisabled,
    /// Its account is disabled.
    AccountDisabled,
    /// Its account is gone or its record is damaged.
    NoAccount,
    /// Its secret cannot be unsealed.
    Sealed,
}

/// For metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccountsStats {
    /// Accounts, the root account included.
    pub accounts: u64,
    /// Access keys, the root key not included.
    pub keys: u64,
    /// Those of them whose secret cannot be unsealed.
    pub unreadable_keys: u64,
}

/// Why a change of accounts or keys did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AccountsError {
    /// No account has this id or name.
    #[error("there is no account {0:?}")]
    NoSuchAccount(String),
    /// No key has this id.
    #[error("there is no access key {0:?}")]
    NoSuchKey(String),
    /// The id or the name is taken.
    #[error("there is an account {0:?} already")]
    AccountExists(String),
    /// The id is taken.
    #[error("there is an access key {0:?} already")]
    KeyExists(String),
    /// The name breaks the rules.
    #[error("{name:?} is no name for an account: {rule}")]
    BadName {
        /// The name asked for.
        name: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// A description is too long, or has characters that no line can show.
    #[error("a description has at most {limit} bytes and no control characters")]
    BadDescription {
        /// Most bytes.
        limit: usize,
    },
    /// The root account cannot be changed, and has no further keys.
    #[error(
        "the root account is always there and enabled, and its one key comes from the environment \
         or the credentials file"
    )]
    Root,
    /// What belongs to an account must be gone before it.
    #[error(
        "the account {account} has {buckets} buckets and {keys} access keys: delete them first"
    )]
    InUse {
        /// Which account.
        account: AccountId,
        /// Its buckets.
        buckets: u64,
        /// Its access keys.
        keys: usize,
    },
    /// There are as many as there may be.
    #[error("there are {limit} accounts and access keys, which is the limit; delete some first")]
    TooMany {
        /// Most accounts and access keys in all.
        limit: usize,
    },
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] Error),
}

type Outcome<T> = Result<T, AccountsError>;

/// Accounts and access keys. Clones share them.
#[derive(Clone)]
pub struct Accounts(Arc<Shared>);

struct Shared {
    inner: Arc<Inner>,
    unseal: Arc<dyn Unseal>,
    table: RwLock<Table>,
    damage: Vec<String>,
}

/// What is known in memory.
#[derive(Default)]
struct Table {
    accounts: BTreeMap<AccountId, Account>,
    keys: HashMap<String, Key>,
}

struct Account {
    name: String,
    created: Timestamp,
    enabled: bool,
}

struct Key {
    info: KeyInfo,
    secret: Option<Secret>,
}

impl Accounts {
    /// Reads all accounts and keys. Blocks. What is damaged is left out and said by
    /// [`Accounts::damage`]: its keys are not accepted, and everything else works.
    pub fn open(objects: &Objects, unseal: Arc<dyn Unseal>) -> crate::Result<Accounts> {
        let inner = objects.inner.clone();
        let (mut table, mut damage) = (Table::default(), Vec::new());
        let view = inner.meta.view();
        block_on(load(&*view, identity_range(), &mut damage, |key, value| {
            let record = AccountRecord::decode(value)?;
            match decode_meta_key(key)? {
                MetaKey::Account { account } if account == record.account.number() => {}
                _ => return Err(misplaced("an account's record")),
            }
            table.put_account(&record);
            Ok(())
        }))?;
        block_on(load(
            &*view,
            access_key_range(),
            &mut damage,
            |key, value| {
                let record = KeyRecord::decode(value)?;
                let MetaKey::AccessKey { id } = decode_meta_key(key)? else {
                    return Err(misplaced("an access key's record"));
                };
                table.put_key(id, &record, &*unseal);
                Ok(())
            },
        ))?;
        drop(view);
        Ok(Accounts(Arc::new(Shared {
            inner,
            unseal,
            table: RwLock::new(table),
            damage,
        })))
    }

    /// What could not be read when they were loaded.
    pub fn damage(&self) -> &[String] {
        &self.0.damage
    }

    /// Who signs with this key. Waits for no disk: some 50 ns, 150 ns for a key of many that no
    /// processor's cache has.
    pub fn grant(&self, access_key_id: &str) -> Result<Grant, Denial> {
        let table = self.table();
        let key = table.keys.get(access_key_id).ok_or(Denial::Unknown)?;
        if !key.info.enabled {
            return Err(Denial::KeyDisabled);
        }
        match table.accounts.get(&key.info.account) {
            None => return Err(Denial::NoAccount),
            Some(account) if !account.enabled => return Err(Denial::AccountDisabled),
            Some(_) => {}
        }
        Ok(Grant {
            account: key.info.account,
            secret: key.secret.clone().ok_or(Denial::Sealed)?,
        })
    }

    /// Accounts in the order of their ids, the root account first: at most `max` of those
    /// behind `after`.
    pub fn accounts(&self, after: Option<AccountId>, max: usize) -> Vec<AccountInfo> {
        let table = self.table();
        let mut keys: HashMap<AccountId, usize> = HashMap::new();
        for key in table.keys.values() {
            *keys.entry(key.info.account).or_default() += 1;
        }
        let root = AccountInfo {
            account: AccountId::ROOT,
            name: ROOT_NAME.to_owned(),
            created: None,
            enabled: true,
            keys: 0,
        };
        let others = table.accounts.iter().map(|(id, account)| AccountInfo {
            account: *id,
            name: account.name.clone(),
            created: Some(account.created),
            enabled: account.enabled,
            keys: keys.get(id).copied().unwrap_or(0),
        });
        let all = std::iter::once(root).chain(others);
        all.filter(|info| after.is_none_or(|after| info.account > after))
            .take(max)
            .collect()
    }

    /// The access keys of an account, or of all, in the order of their ids: at most `max` of
    /// those behind `after`.
    pub fn keys(&self, of: Option<AccountId>, after: Option<&str>, max: usize) -> Vec<KeyInfo> {
        let table = self.table();
        let infos = table.keys.values().map(|key| &key.info);
        let mut infos: Vec<&KeyInfo> = infos
            .filter(|info| of.is_none_or(|account| info.account == account))
            .filter(|info| after.is_none_or(|after| info.access_key_id.as_str() > after))
            .collect();
        infos.sort_by_key(|info| &info.access_key_id);
        infos.into_iter().take(max).cloned().collect()
    }

    /// One access key.
    pub fn key(&self, access_key_id: &str) -> Outcome<KeyInfo> {
        let table = self.table();
        let found = table.keys.get(access_key_id);
        found
            .map(|key| key.info.clone())
            .ok_or_else(|| AccountsError::NoSuchKey(access_key_id.to_owned()))
    }

    /// The account with this id or this name.
    pub fn find(&self, id_or_name: &str) -> Outcome<AccountId> {
        let unknown = || AccountsError::NoSuchAccount(id_or_name.to_owned());
        if id_or_name == ROOT_NAME {
            return Ok(AccountId::ROOT);
        }
        let table = self.table();
        if let Ok(id) = id_or_name.parse::<AccountId>() {
            let known = id == AccountId::ROOT || table.accounts.contains_key(&id);
            return known.then_some(id).ok_or_else(unknown);
        }
        table.id_of(id_or_name).ok_or_else(unknown)
    }

    /// The name of an account, if it is there.
    pub fn name_of(&self, account: AccountId) -> Option<String> {
        if account == AccountId::ROOT {
            return Some(ROOT_NAME.to_owned());
        }
        let table = self.table();
        table.accounts.get(&account).map(|found| found.name.clone())
    }

    /// For metrics.
    pub fn stats(&self) -> AccountsStats {
        let table = self.table();
        let unreadable = table.keys.values().filter(|key| key.secret.is_none());
        AccountsStats {
            accounts: 1 + table.accounts.len() as u64,
            keys: table.keys.len() as u64,
            unreadable_keys: unreadable.count() as u64,
        }
    }

    /// Creates an account under an id that the caller drew at random: `AccountExists` if it or
    /// the name is taken. Blocks until it is durable.
    pub fn create_account(&self, account: AccountId, name: &str) -> Outcome<AccountInfo> {
        check_name(name)?;
        let _guard = self.begin()?;
        {
            let table = self.table();
            let taken = |what: &str| Err(AccountsError::AccountExists(what.to_owned()));
            if account == AccountId::ROOT || table.accounts.contains_key(&account) {
                return taken(&account.to_string());
            }
            if table.id_of(name).is_some() {
                return taken(name);
            }
            table.check_room()?;
        }
        let record = AccountRecord {
            flags: 0,
            account,
            created: Timestamp::now(),
            name: name.to_owned(),
            unknown: Vec::new(),
        };
        let key = identity_key(account.number());
        let batch = MetaBatch::new().expect(key.as_bytes().to_vec(), None).put(
            &key,
            record.encode()?,
            Vec::new(),
        );
        self.0.inner.meta.commit_now(batch)?;
        self.table_mut().put_account(&record);
        Ok(AccountInfo {
            account,
            name: record.name,
            created: Some(record.created),
            enabled: true,
            keys: 0,
        })
    }

    /// Enables or disables an account: with it, all its keys. Blocks until it is durable.
    pub fn set_account_enabled(&self, account: AccountId, enabled: bool) -> Outcome<()> {
        let _guard = self.begin()?;
        self.check_account(account)?;
        let key = identity_key(account.number());
        let stored = self.stored(&key, || AccountsError::NoSuchAccount(account.to_string()))?;
        let mut record = AccountRecord::decode(&stored)?;
        record.set_enabled(enabled);
        self.0
            .inner
            .meta
            .commit_now(replacing(&key, stored, record.encode()?))?;
        self.table_mut().put_account(&record);
        Ok(())
    }

    /// Deletes an account that has neither buckets nor keys. Blocks until it is durable.
    pub fn delete_account(&self, account: AccountId) -> Outcome<()> {
        let _guard = self.begin()?;
        self.check_account(account)?;
        // Nobody creates a bucket between the count and the end.
        let _buckets = block_on(self.0.inner.locks.account(account));
        let view = self.0.inner.meta.view();
        let counted = block_on(view.get(&account_key(account.number())))?;
        let [buckets] = counters(&counted.map(|entry| entry.value).unwrap_or_default());
        let buckets = u64::try_from(buckets).unwrap_or(0);
        let keys = self.keys(Some(account), None, usize::MAX).len();
        if buckets > 0 || keys > 0 {
            return Err(AccountsError::InUse {
                account,
                buckets,
                keys,
            });
        }
        let batch = MetaBatch::new()
            .delete(&identity_key(account.number()))
            .delete(&account_key(account.number()));
        self.0.inner.meta.commit_now(batch.frees_space())?;
        self.table_mut().accounts.remove(&account);
        Ok(())
    }

    /// Creates an access key. Blocks until it is durable.
    pub fn create_key(&self, new: NewKey) -> Outcome<KeyInfo> {
        check_key(&new)?;
        let _guard = self.begin()?;
        self.check_account(new.account)?;
        {
            let table = self.table();
            if table.keys.contains_key(&new.access_key_id) {
                return Err(AccountsError::KeyExists(new.access_key_id));
            }
            table.check_room()?;
        }
        let now = Timestamp::now();
        let record = KeyRecord {
            flags: 0,
            account: new.account,
            created: now,
            rotated: now,
            description: new.description,
            sealed: new.sealed,
            unknown: Vec::new(),
        };
        let key = access_key(&new.access_key_id);
        let batch = MetaBatch::new().expect(key.as_bytes().to_vec(), None).put(
            &key,
            record.encode()?,
            Vec::new(),
        );
        self.0.inner.meta.commit_now(batch)?;
        self.apply(new.access_key_id, &record)
    }

    /// Enables or disables an access key. Blocks until it is durable.
    pub fn set_key_enabled(&self, access_key_id: &str, enabled: bool) -> Outcome<KeyInfo> {
        self.change_key(access_key_id, |record| record.set_enabled(enabled))
    }

    /// Gives an access key another secret: the one before is refused from now on. Blocks until
    /// it is durable.
    pub fn rotate_key(&self, access_key_id: &str, sealed: Vec<u8>) -> Outcome<KeyInfo> {
        check_sealed(&sealed)?;
        self.change_key(access_key_id, |record| {
            record.sealed = sealed;
            record.rotated = Timestamp::now();
        })
    }

    /// Deletes an access key, also one whose record is damaged. Blocks until it is durable.
    pub fn delete_key(&self, access_key_id: &str) -> Outcome<()> {
        let _guard = self.begin()?;
        let missing = || AccountsError::NoSuchKey(access_key_id.to_owned());
        if access_key_id.len() > ACCESS_KEY_ID_BYTES_MAX {
            return Err(missing());
        }
        let key = access_key(access_key_id);
        self.stored(&key, missing)?;
        let batch = MetaBatch::new().delete(&key);
        self.0.inner.meta.commit_now(batch.frees_space())?;
        self.table_mut().keys.remove(access_key_id);
        Ok(())
    }

    fn change_key(
        &self,
        access_key_id: &str,
        change: impl FnOnce(&mut KeyRecord),
    ) -> Outcome<KeyInfo> {
        let _guard = self.begin()?;
        self.key(access_key_id)?;
        let key = access_key(access_key_id);
        let stored = self.stored(&key, || AccountsError::NoSuchKey(access_key_id.to_owned()))?;
        let mut record = KeyRecord::decode(&stored)?;
        change(&mut record);
        self.0
            .inner
            .meta
            .commit_now(replacing(&key, stored, record.encode()?))?;
        self.apply(access_key_id.to_owned(), &record)
    }

    /// Shows what is durable now.
    fn apply(&self, access_key_id: String, record: &KeyRecord) -> Outcome<KeyInfo> {
        let unseal = &*self.0.unseal;
        Ok(self.table_mut().put_key(access_key_id, record, unseal))
    }

    /// Keeps other changes out.
    fn begin(&self) -> Outcome<std::sync::MutexGuard<'_, ()>> {
        let guard = self.0.inner.locks.accounts();
        self.0.inner.check_open()?;
        Ok(guard)
    }

    fn check_account(&self, account: AccountId) -> Outcome<()> {
        if account == AccountId::ROOT {
            return Err(AccountsError::Root);
        }
        let known = self.table().accounts.contains_key(&account);
        known
            .then_some(())
            .ok_or_else(|| AccountsError::NoSuchAccount(account.to_string()))
    }

    /// The record as it is on the disks, with fields that only a later release knows.
    fn stored(
        &self,
        key: &volume::Key,
        missing: impl FnOnce() -> AccountsError,
    ) -> Outcome<Vec<u8>> {
        let view = self.0.inner.meta.view();
        let entry = block_on(view.get(key))?;
        entry.map(|entry| entry.value).ok_or_else(missing)
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.0.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change that works on a full disk: a key that was stolen can always be disabled.
fn replacing(key: &volume::Key, stored: Vec<u8>, record: Vec<u8>) -> MetaBatch {
    MetaBatch::new()
        .expect_value(key, stored)
        .put(key, record, Vec::new())
        .frees_space()
}

impl Table {
    fn put_account(&mut self, record: &AccountRecord) {
        let account = Account {
            name: record.name.clone(),
            created: record.created,
            enabled: record.is_enabled(),
        };
        self.accounts.insert(record.account, account);
    }

    fn put_key(&mut self, id: String, record: &KeyRecord, unseal: &dyn Unseal) -> KeyInfo {
        let secret = unseal.unseal(&id, record.account, &record.sealed);
        let info = KeyInfo {
            access_key_id: id.clone(),
            account: record.account,
            created: record.created,
            rotated: record.rotated,
            enabled: record.is_enabled(),
            readable: secret.is_some(),
            description: record.description.clone(),
        };
        let key = Key {
            info: info.clone(),
            secret,
        };
        self.keys.insert(id, key);
        info
    }

    fn id_of(&self, name: &str) -> Option<AccountId> {
        if name == ROOT_NAME {
            return Some(AccountId::ROOT);
        }
        let mut accounts = self.accounts.iter();
        accounts
            .find(|(_, account)| account.name == name)
            .map(|(id, _)| *id)
    }

    fn check_room(&self) -> Outcome<()> {
        let limit = IDENTITIES_MAX;
        match self.accounts.len() + self.keys.len() < limit {
            true => Ok(()),
            false => Err(AccountsError::TooMany { limit }),
        }
    }
}

/// Hands every entry of a range to `take`. An entry that is damaged is left out and named; from
/// a place that cannot be read on, so is the rest of the range.
async fn load(
    view: &dyn MetaView,
    (from, to): (Vec<u8>, Vec<u8>),
    damage: &mut Vec<String>,
    mut take: impl FnMut(&[u8], &[u8]) -> crate::Result<()>,
) -> crate::Result<()> {
    let mut scan = Scan::new(view, from, to, SCAN_CHUNK_MAX);
    loop {
        match scan.next().await {
            Ok(None) => return Ok(()),
            Ok(Some(entry)) => {
                if let Err(error) = take(&entry.key, &entry.value) {
                    damage.push(error.to_string());
                }
            }
            Err(error @ (Error::Corrupt { .. } | Error::Unreadable { .. })) => {
                damage.push(error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

fn misplaced(what: &str) -> Error {
    crate::codec::corrupt(what, "it stands under another's key")
}

fn check_name(name: &str) -> Outcome<()> {
    let broken = |rule| {
        Err(AccountsError::BadName {
            name: name.to_owned(),
            rule,
        })
    };
    if name.is_empty() || name.len() > ACCOUNT_NAME_BYTES_MAX {
        return broken("it has 1 to 64 characters");
    }
    let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@+".contains(&byte);
    if !name.bytes().all(usable) || !name.as_bytes()[0].is_ascii_alphanumeric() {
        return broken(
            "it consists of letters, digits and -_.@+, and begins with a letter or a digit",
        );
    }
    if name.parse::<AccountId>().is_ok() {
        return broken("twelve digits are an account's id");
    }
    Ok(())
}

fn check_key(new: &NewKey) -> Outcome<()> {
    let id = &new.access_key_id;
    let usable = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    if id.is_empty() || id.len() > ACCESS_KEY_ID_BYTES_MAX || !id.bytes().all(usable) {
        return Err(Error::Internal(format!("{id:?} is no access key id")).into());
    }
    let description = &new.description;
    if description.len() > KEY_DESCRIPTION_BYTES_MAX || description.contains(char::is_control) {
        return Err(AccountsError::BadDescription {
            limit: KEY_DESCRIPTION_BYTES_MAX,
        });
    }
    check_sealed(&new.sealed)
}

fn check_sealed(sealed: &[u8]) -> Outcome<()> {
    match sealed.len() {
        1..=SEALED_BYTES_MAX => Ok(()),
        bytes => Err(Error::Internal(format!("a sealed secret of {bytes} bytes")).into()),
    }
}
