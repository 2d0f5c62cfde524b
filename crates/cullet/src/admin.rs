//! What a running server does for `cullet account` and `cullet key`: JSON in, JSON out, under
//! `/_cullet/admin/`, for the root key alone.
//!
//! | POST to | with | answers |
//! |---|---|---|
//! | `accounts/create` | `name` | `account` |
//! | `accounts/list` | `after`? | `accounts`, and `next` if there are more |
//! | `accounts/enable`, `disable`, `delete` | `account` | `account` |
//! | `keys/create` | `account`, `description`? | `key` with its secret, `note`? |
//! | `keys/rotate` | `key` | `key` with its secret, `note`? |
//! | `keys/list` | `account`?, `after`? | `keys`, and `next` if there are more |
//! | `keys/enable`, `disable`, `delete` | `key` | `key` |
//! | `disks/list` | | what `/_cullet/redundancy` says |
//! | `disks/add` | `path`, `dry_run`? | `slot`, or what would move |
//! | `disks/replace` | `disk`, `path`, `accept_loss`?, `dry_run`? | `slot`, or what would move |
//! | `disks/drain` | `disk`, `cancel`?, `dry_run`? | `slot`, or what would move |
//! | `disks/remove` | `disk`, `accept_loss`?, `dry_run`? | `slot`, or what would be made again |
//! | `disks/scrub` | `disk`? | `slots` |
//!
//! `account` in a request is an id or a name, `disk` a number, a path or an id. A refusal answers `error`, a sentence, and
//! `code`. A secret is in the one answer that made it and nowhere else: not in a log, not in a
//! list. What is answered is durable, and counts for the next request.

use std::path::PathBuf;
use std::sync::Arc;

use http::StatusCode;
use objects::{
    AccountId, AccountInfo, Accounts, AccountsError, Error, KeyInfo, NewKey, Objects, Secret,
};
use s3::{Admin, AdminAnswer, AdminRequest};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use volume::Change;

use crate::disks::{self, Disks};
use crate::keyring::{Keyring, Sealed};
use crate::limits::ADMIN_PAGE_ENTRIES;
use crate::random;
use crate::redundancy;
use crate::time_text::rfc3339_millis;

/// The path that all of this is under.
pub(crate) const ADMIN: &str = "/_cullet/admin/";

/// Administers a server's accounts and keys.
pub(crate) struct Administration {
    work: Arc<Work>,
    /// Requests come one at a time, so that they hold one thread at most.
    turn: Arc<Mutex<()>>,
}

struct Work {
    objects: Objects,
    accounts: Accounts,
    keyring: Arc<Keyring>,
    disks: Disks,
}

/// Why a request was not carried out.
struct Refused {
    status: StatusCode,
    code: &'static str,
    sentence: String,
}

impl Refused {
    fn bad(sentence: impl Into<String>) -> Refused {
        Refused {
            status: StatusCode::BAD_REQUEST,
            code: "InvalidRequest",
            sentence: sentence.into(),
        }
    }

    fn answer(&self) -> AdminAnswer {
        AdminAnswer {
            status: self.status,
            document: json!({"error": self.sentence, "code": self.code}).to_string(),
        }
    }
}

impl From<AccountsError> for Refused {
    fn from(error: AccountsError) -> Refused {
        let (status, code) = match &error {
            AccountsError::NoSuchAccount(_) => (StatusCode::NOT_FOUND, "NoSuchAccount"),
            AccountsError::NoSuchKey(_) => (StatusCode::NOT_FOUND, "NoSuchKey"),
            AccountsError::AccountExists(_) => (StatusCode::CONFLICT, "AccountExists"),
            AccountsError::KeyExists(_) => (StatusCode::CONFLICT, "KeyExists"),
            AccountsError::BadName { .. } => (StatusCode::BAD_REQUEST, "InvalidName"),
            AccountsError::BadDescription { .. } => (StatusCode::BAD_REQUEST, "InvalidDescription"),
            AccountsError::Root => (StatusCode::CONFLICT, "RootAccount"),
            AccountsError::InUse { .. } => (StatusCode::CONFLICT, "AccountInUse"),
            AccountsError::TooMany { .. } => (StatusCode::CONFLICT, "TooMany"),
            AccountsError::Store(Error::InsufficientStorage) => {
                (StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage")
            }
            AccountsError::Store(
                Error::SlowDown(_) | Error::DiskFailed(_) | Error::DisksMissing(_) | Error::Closed,
            ) => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
            AccountsError::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        };
        if status.is_server_error() {
            tracing::error!(%error, "accounts and access keys could not be changed");
        }
        Refused {
            status,
            code,
            sentence: error.to_string(),
        }
    }
}

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Refused {
        tracing::error!("what was to be administered could not be changed: {error:#}");
        Refused {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: "InternalError",
            sentence: format!("{error:#}"),
        }
    }
}

impl Administration {
    /// Over a store, its accounts, whose secrets are sealed by `keyring`, and its disks.
    pub(crate) fn new(
        objects: Objects,
        accounts: Accounts,
        keyring: Arc<Keyring>,
        disks: Disks,
    ) -> Administration {
        Administration {
            work: Arc::new(Work {
                objects,
                accounts,
                keyring,
                disks,
            }),
            turn: Arc::default(),
        }
    }
}

#[async_trait::async_trait]
impl Admin for Administration {
    async fn answer(&self, request: AdminRequest) -> AdminAnswer {
        let turn = self.turn.clone().lock_owned().await;
        let work = self.work.clone();
        // On a thread that may block, which goes on if the client leaves.
        let answered = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            match work.carry_out(&request) {
                Ok(document) => AdminAnswer {
                    status: StatusCode::OK,
                    document: document.to_string(),
                },
                Err(refused) => refused.answer(),
            }
        });
        let lost = |_| Refused::from(anyhow::anyhow!("the request ended in a panic")).answer();
        answered.await.unwrap_or_else(lost)
    }
}

/// The fields of a request. What is left over was not expected.
struct Fields(Map<String, Value>);

impl Fields {
    fn parse(body: &[u8]) -> Result<Fields, Refused> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(Refused::bad("the request is no JSON object")),
            Err(error) => Err(Refused::bad(format!("the request is no JSON: {error}"))),
        }
    }

    fn optional(&mut self, name: &str) -> Result<Option<String>, Refused> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refused::bad(format!("{name:?} is no text"))),
        }
    }

    fn required(&mut self, name: &str) -> Result<String, Refused> {
        let value = self.optional(name)?;
        value.ok_or_else(|| Refused::bad(format!("{name:?} is missing")))
    }

    fn flag(&mut self, name: &str) -> Result<bool, Refused> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(Refused::bad(format!("{name:?} is neither true nor false"))),
        }
    }

    fn end(&self) -> Result<(), Refused> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Refused::bad(format!("{name:?} is not known here"))),
        }
    }
}

impl Work {
    fn carry_out(&self, request: &AdminRequest) -> Result<Value, Refused> {
        let mut fields = Fields::parse(&request.body)?;
        let operation = request.operation.as_str();
        let answer = match operation {
            "disks/list" => {
                fields.end()?;
                return Ok(redundancy::document(&self.objects.stats().volume));
            }
            "disks/add" | "disks/replace" | "disks/drain" | "disks/remove" | "disks/scrub" => {
                self.change_disks(operation, fields)?
            }
            "accounts/list" => {
                let after = fields.optional("after")?;
                fields.end()?;
                return self.list_accounts(after);
            }
            "accounts/create" => {
                let name = fields.required("name")?;
                fields.end()?;
                json!({"account": self.create_account(&name)?})
            }
            "accounts/enable" | "accounts/disable" | "accounts/delete" => {
                let account = self.accounts.find(&fields.required("account")?)?;
                fields.end()?;
                json!({"account": self.change_account(operation, account)?})
            }
            "keys/list" => {
                let (of, after) = (fields.optional("account")?, fields.optional("after")?);
                fields.end()?;
                return self.list_keys(of, after);
            }
            "keys/create" => {
                let account = self.accounts.find(&fields.required("account")?)?;
                let description = fields.optional("description")?.unwrap_or_default();
                fields.end()?;
                self.create_key(account, description)?
            }
            "keys/enable" | "keys/disable" | "keys/delete" | "keys/rotate" => {
                let id = fields.required("key")?;
                fields.end()?;
                self.change_key(operation, &id)?
            }
            _ => {
                return Err(Refused {
                    status: StatusCode::NOT_FOUND,
                    code: "NoSuchOperation",
                    sentence: format!("there is no operation {operation:?}"),
                });
            }
        };
        // Who else would know: the root key is not told apart by who holds it.
        let subject = ["account", "key"].iter().find_map(|name| answer.get(*name));
        let id = subject.and_then(|subject| subject["id"].as_str());
        let slot = answer["slot"].as_u64();
        tracing::info!(operation, id, slot, "administered");
        Ok(answer)
    }

    fn change_disks(&self, operation: &str, mut fields: Fields) -> Result<Value, Refused> {
        let path = fields.optional("path")?.map(PathBuf::from);
        let disk = fields.optional("disk")?;
        let (dry_run, cancel) = (fields.flag("dry_run")?, fields.flag("cancel")?);
        let accept_loss = fields.flag("accept_loss")?;
        fields.end()?;
        let disks = &self.disks;
        let done = match (operation, path, disk.as_deref()) {
            ("disks/add", Some(path), None) if dry_run => disks.measure_add(&path, None),
            ("disks/add", Some(path), None) => disks.add(&path, None, false),
            ("disks/replace", Some(path), Some(old)) if dry_run => {
                disks.measure_add(&path, Some(old))
            }
            ("disks/replace", Some(path), Some(old)) => disks.add(&path, Some(old), accept_loss),
            ("disks/drain", None, Some(disk)) if dry_run => {
                disks.measure(disk, |slot| Change::Drain { slot })
            }
            ("disks/drain", None, Some(disk)) => disks.drain(disk, !cancel),
            ("disks/remove", None, Some(disk)) if dry_run => {
                disks.measure(disk, |slot| Change::Remove { slot })
            }
            ("disks/remove", None, Some(disk)) => disks.remove(disk, accept_loss),
            ("disks/scrub", None, disk) if !dry_run => disks.scrub(disk),
            _ => return Err(Refused::bad("\"path\" or \"disk\" is missing, or too much")),
        };
        done.map_err(|error| match disks::is_refusal(&error) {
            true => Refused {
                status: StatusCode::CONFLICT,
                code: "DiskRefused",
                sentence: format!("{error:#}"),
            },
            false => Refused::from(error),
        })
    }

    fn list_accounts(&self, after: Option<String>) -> Result<Value, Refused> {
        let after =
            match after {
                Some(after) => Some(after.parse::<AccountId>().map_err(|error| {
                    Refused::bad(format!("\"after\" is {after:?}, but {error}"))
                })?),
                None => None,
            };
        let mut page = self.accounts.accounts(after, ADMIN_PAGE_ENTRIES + 1);
        let more = page.len() > ADMIN_PAGE_ENTRIES;
        page.truncate(ADMIN_PAGE_ENTRIES);
        let next = page.last().filter(|_| more);
        let next = next.map(|last| last.account.to_string());
        let accounts: Vec<Value> = page.iter().map(account_json).collect();
        Ok(json!({"accounts": accounts, "next": next}))
    }

    fn create_account(&self, name: &str) -> Result<Value, Refused> {
        loop {
            // Twelve digits without leading zeros, which some programs lose.
            let number = 100_000_000_000 + random::below(900_000_000_000)?;
            let Some(id) = AccountId::from_number(number) else {
                continue;
            };
            match self.accounts.create_account(id, name) {
                Ok(info) => return Ok(account_json(&info)),
                Err(AccountsError::AccountExists(taken)) if taken == id.to_string() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn change_account(&self, operation: &str, account: AccountId) -> Result<Value, Refused> {
        let name = self.accounts.name_of(account);
        let mut changed = json!({"id": account.to_string(), "name": name});
        match operation {
            "accounts/delete" => self.accounts.delete_account(account)?,
            _ => {
                let enabled = operation == "accounts/enable";
                self.accounts.set_account_enabled(account, enabled)?;
                changed["enabled"] = enabled.into();
            }
        }
        Ok(changed)
    }

    fn list_keys(&self, of: Option<String>, after: Option<String>) -> Result<Value, Refused> {
        let of = match of {
            Some(account) => Some(self.accounts.find(&account)?),
            None => None,
        };
        let mut page = self
            .accounts
            .keys(of, after.as_deref(), ADMIN_PAGE_ENTRIES + 1);
        let more = page.len() > ADMIN_PAGE_ENTRIES;
        page.truncate(ADMIN_PAGE_ENTRIES);
        let next = page.last().filter(|_| more);
        let next = next.map(|last| last.access_key_id.clone());
        let keys: Vec<Value> = page.iter().map(|key| self.key_json(key)).collect();
        Ok(json!({"keys": keys, "next": next}))
    }

    fn create_key(&self, account: AccountId, description: String) -> Result<Value, Refused> {
        if account == AccountId::ROOT {
            // Before a secret is made for it.
            return Err(AccountsError::Root.into());
        }
        self.refuse_second_master_key()?;
        let id = random::access_key_id()?;
        let secret = Secret::new(random::secret()?);
        let sealed = self.keyring.seal(&id, account, &secret)?;
        let info = self.accounts.create_key(NewKey {
            access_key_id: id,
            account,
            description,
            sealed: sealed.bytes.clone(),
        })?;
        Ok(self.with_secret(&info, &secret, &sealed))
    }

    /// A key that is sealed now, with another master key than some of the others, would be the
    /// one that is refused when that other master key comes back.
    fn refuse_second_master_key(&self) -> Result<(), Refused> {
        let stats = self.accounts.stats();
        if stats.unreadable_keys == 0 {
            return Ok(());
        }
        Err(Refused {
            status: StatusCode::CONFLICT,
            code: "AnotherMasterKey",
            sentence: format!(
                "{} of {} access keys are sealed with another master key than the server has. \
                 Start it with that one (CULLET_MASTER_KEY, or its credentials file), or, if it \
                 is lost, give those keys other secrets with `cullet key rotate` or delete them: \
                 `cullet key list` names them",
                stats.unreadable_keys, stats.keys
            ),
        })
    }

    fn change_key(&self, operation: &str, id: &str) -> Result<Value, Refused> {
        let info = match operation {
            "keys/delete" => {
                self.accounts.delete_key(id)?;
                return Ok(json!({"key": {"id": id}}));
            }
            "keys/rotate" => {
                let account = self.accounts.key(id)?.account;
                let secret = Secret::new(random::secret()?);
                let sealed = self.keyring.seal(id, account, &secret)?;
                let info = self.accounts.rotate_key(id, sealed.bytes.clone())?;
                return Ok(self.with_secret(&info, &secret, &sealed));
            }
            _ => self
                .accounts
                .set_key_enabled(id, operation == "keys/enable")?,
        };
        Ok(json!({"key": self.key_json(&info)}))
    }

    fn with_secret(&self, info: &KeyInfo, secret: &Secret, sealed: &Sealed) -> Value {
        let mut key = self.key_json(info);
        key["secret"] = secret.expose().into();
        let note = sealed.made.as_ref().map(|file| {
            format!(
                "the master key that seals secrets was made just now and is kept in {} on the \
                 server: keep a copy of that file",
                file.display()
            )
        });
        json!({"key": key, "note": note})
    }

    fn key_json(&self, key: &KeyInfo) -> Value {
        json!({
            "id": key.access_key_id,
            "account": key.account.to_string(),
            "account_name": self.accounts.name_of(key.account),
            "created": rfc3339_millis(key.created.as_millis()),
            "rotated": rfc3339_millis(key.rotated.as_millis()),
            "enabled": key.enabled,
            "readable": key.readable,
            "description": key.description,
        })
    }
}

fn account_json(info: &AccountInfo) -> Value {
    json!({
        "id": info.account.to_string(),
        "name": info.name,
        "created": info.created.map(|created| rfc3339_millis(created.as_millis())),
        "enabled": info.enabled,
        "keys": info.keys,
    })
}
