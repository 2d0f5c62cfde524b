//! Who may ask, and what may be asked: everything that is decided after a signature was
//! verified and before an operation begins.

use std::sync::Arc;

use objects::{AccountId, Objects};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

use crate::context::RequestContext;
use crate::document;
use crate::front::{Budgets, Credentials};
use crate::host;
use crate::names::{percent_decode, query_pairs};
use crate::query_headers;
use crate::unsupported::{canonical_name, check_headers, check_query};

/// Knows the one access key that there is.
pub(crate) struct Keys {
    credentials: Credentials,
    account: AccountId,
}

impl Keys {
    pub(crate) fn new(credentials: Credentials, account: AccountId) -> Keys {
        Keys {
            credentials,
            account,
        }
    }

    /// The account that an access key signs for.
    fn account_of(&self, access_key: &str) -> S3Result<AccountId> {
        if access_key == self.credentials.access_key_id {
            return Ok(self.account);
        }
        Err(s3_error!(InvalidAccessKeyId))
    }
}

/// For `s3s`, which verifies signatures.
#[derive(Clone)]
pub(crate) struct SharedKeys(pub(crate) Arc<Keys>);

#[async_trait::async_trait]
impl S3Auth for SharedKeys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        self.0.account_of(access_key)?;
        let secret = self.0.credentials.secret_access_key.as_str();
        Ok(SecretKey::from(secret))
    }
}

/// The operations whose document `s3s` reads into memory.
const READS_DOCUMENT: [&str; 3] = ["CompleteMultipartUpload", "CreateBucket", "DeleteObjects"];

/// Lets only what is there through to the operations.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) objects: Objects,
    pub(crate) keys: Arc<Keys>,
    pub(crate) budgets: Budgets,
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
        let caller = self.keys.account_of(&credentials.access_key)?;
        if let Some(context) = &context {
            context.set_caller(caller);
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
        host::check(&self.objects, &caller, operation, path, &headers).await?;
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
