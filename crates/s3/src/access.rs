//! Who may ask, and what may be asked: everything that is decided after a signature was
//! verified and before an operation begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use objects::{AccountId, Accounts, Denial, Grant, Objects, Secret, Timestamp};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::path::S3Path;
use s3s::{S3Error, S3Result, s3_error};

use crate::context::RequestContext;
use crate::document;
use crate::errors::{SAID_AGAIN_AFTER_MS, from_objects};
use crate::front::{Budgets, Credentials};
use crate::host::{self, Domains};
use crate::names::{percent_decode, query_pairs};
use crate::query_headers;
use crate::settings;
use crate::unsupported::{canonical_name, check_headers, check_query};

/// Knows every access key: the root key, and those in the table of accounts.
pub(crate) struct Keys {
    root_id: String,
    root: Grant,
    accounts: Accounts,
}

impl Keys {
    pub(crate) fn new(root: Credentials, accounts: Accounts) -> Keys {
        let grant = Grant {
            account: AccountId::ROOT,
            secret: Secret::new(root.secret_access_key),
        };
        Keys {
            root_id: root.access_key_id,
            root: grant,
            accounts,
        }
    }

    pub(crate) fn is_root(&self, access_key: &str) -> bool {
        access_key == self.root_id
    }

    /// The account that an access key signs for, as of now.
    pub(crate) fn account_of(&self, access_key: &str) -> S3Result<AccountId> {
        let grant = self.grant(access_key).map_err(denied)?;
        Ok(grant.account)
    }

    /// Whom an access key signs for, and with what, as of now.
    pub(crate) fn grant(&self, access_key: &str) -> Result<Grant, Denial> {
        match self.is_root(access_key) {
            true => Ok(self.root.clone()),
            false => self.accounts.grant(access_key),
        }
    }

    fn secret_of(&self, access_key: &str) -> S3Result<SecretKey> {
        let grant = self.grant(access_key).map_err(denied)?;
        Ok(SecretKey::from(grant.secret.expose()))
    }
}

/// S3 says of a key that is switched off what it says of one that never was. The message tells
/// them apart, because whoever has the id of a key has a right to know why it fails.
fn denied(denial: Denial) -> S3Error {
    match denial {
        Denial::Unknown => s3_error!(InvalidAccessKeyId),
        Denial::KeyDisabled => s3_error!(InvalidAccessKeyId, "This access key is disabled."),
        Denial::AccountDisabled => s3_error!(
            InvalidAccessKeyId,
            "The account of this access key is disabled."
        ),
        Denial::NoAccount | Denial::Sealed => {
            say_once_in_a_while(denial);
            s3_error!(
                InvalidAccessKeyId,
                "This server cannot read the secret of this access key. Its operator can restore \
                 the master key, or rotate the access key."
            )
        }
    }
}

/// The id is not named: anybody can send one.
fn say_once_in_a_while(denial: Denial) {
    static LAST_SAID: AtomicU64 = AtomicU64::new(0);
    let now = Timestamp::now().as_millis() / SAID_AGAIN_AFTER_MS;
    if LAST_SAID.swap(now, Ordering::Relaxed) != now {
        let why = match denial {
            Denial::NoAccount => "its account is gone or damaged",
            _ => "its secret is sealed with another master key",
        };
        tracing::warn!("a request came with an access key that cannot be used: {why}");
    }
}

/// For `s3s`, which verifies signatures.
#[derive(Clone)]
pub(crate) struct SharedKeys(pub(crate) Arc<Keys>);

#[async_trait::async_trait]
impl S3Auth for SharedKeys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        self.0.secret_of(access_key)
    }
}

/// The operations whose document `s3s` reads into memory.
const READS_DOCUMENT: [&str; 5] = [
    "CompleteMultipartUpload",
    "CreateBucket",
    "DeleteObjects",
    "PutBucketAcl",
    "PutObjectAcl",
];

/// Lets only what is there through to the operations.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) objects: Objects,
    pub(crate) keys: Arc<Keys>,
    pub(crate) budgets: Budgets,
    pub(crate) domains: Domains,
}

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let context = cx.extensions_mut().get::<Arc<RequestContext>>().cloned();
        let operation = cx.s3_op().name();
        if let Some(context) = &context {
            context.set_operation(canonical_name(operation));
        }
        let Some(credentials) = cx.credentials() else {
            return Err(s3_error!(
                AccessDenied,
                "Anonymous requests are refused: sign the request."
            ));
        };
        // Once more: the key may have been disabled while its signature was verified.
        let caller = self.keys.account_of(&credentials.access_key)?;
        if let Some(context) = &context {
            context.set_caller(caller, &credentials.access_key);
        }
        let query = cx.uri().query().unwrap_or("");
        let session_token = cx.headers().contains_key("x-amz-security-token")
            || query_pairs(query)
                .any(|(name, _)| percent_decode(name).as_deref() == Some("X-Amz-Security-Token"));
        if session_token {
            return Err(s3_error!(
                InvalidToken,
                "This server hands out no session tokens."
            ));
        }
        let headers = query_headers::merged(operation, cx.uri(), cx.headers())?;
        if let Some(owner) = headers.get("x-amz-expected-bucket-owner")
            && owner.as_bytes() != caller.to_string().as_bytes()
        {
            return Err(s3_error!(
                AccessDenied,
                "The bucket has another owner than expected."
            ));
        }
        check_query(operation, query)?;
        check_headers(operation, &headers)?;
        let path = cx.s3_path();
        let (domains, objects) = (&self.domains, &self.objects);
        host::check(domains, objects, &caller, operation, path, &headers).await?;
        if let Some(absent) = settings::absent(operation) {
            if let S3Path::Bucket { bucket } = path {
                let found = objects.head_bucket(&caller, bucket).await;
                found.map_err(from_objects)?;
            }
            return Err(absent);
        }
        if READS_DOCUMENT.contains(&operation) {
            self.reserve_document(operation, cx.headers(), context)
                .await?;
        }
        Ok(())
    }
}

impl Gate {
    /// `s3s` reads documents into memory next: room for that, before it does.
    async fn reserve_document(
        &self,
        operation: &str,
        headers: &http::HeaderMap,
        context: Option<Arc<RequestContext>>,
    ) -> S3Result<()> {
        let Some(bytes) = document::bytes_to_read(operation, headers)? else {
            return Ok(());
        };
        let reservation = self.budgets.reserve_document(bytes).await?;
        if let Some(context) = context {
            context.hold_document(reservation);
        }
        Ok(())
    }
}
