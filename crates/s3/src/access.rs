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
use crate::host::{self, Domains};
use crate::names::{percent_decode, query_pairs};
use crate::query_headers;
use crate::unsupported::{canonical_name, check_headers, check_query};

/// Knows the one access key that there is.
pub(crate) struct Keys {
    credentials: Credentials,
}

impl Keys {
    pub(crate) fn new(credentials: Credentials) -> Keys {
        Keys { credentials }
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.credentials.access_key_id {
            return Ok(SecretKey::from(self.credentials.secret_access_key.as_str()));
        }
        Err(s3_error!(InvalidAccessKeyId))
    }
}

/// Lets only what is there through to the operations.
pub(crate) struct Gate {
    pub(crate) objects: Objects,
    pub(crate) account: AccountId,
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
        if cx.credentials().is_none() {
            return Err(s3_error!(
                AccessDenied,
                "Anonymous requests are refused: sign the request."
            ));
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
            && owner.as_bytes() != self.account.to_string().as_bytes()
        {
            return Err(s3_error!(
                AccessDenied,
                "The bucket has another owner than expected."
            ));
        }
        check_query(operation, query)?;
        check_headers(operation, &headers)?;
        let (account, path) = (&self.account, cx.s3_path());
        host::check(
            &self.domains,
            &self.objects,
            account,
            operation,
            path,
            &headers,
        )
        .await?;
        if operation == "DeleteObjects" || operation == "CreateBucket" {
            self.reserve_document(cx.headers(), context).await?;
        }
        Ok(())
    }
}

impl Gate {
    /// `s3s` reads documents into memory next: room for that, before it does.
    async fn reserve_document(
        &self,
        headers: &http::HeaderMap,
        context: Option<Arc<RequestContext>>,
    ) -> S3Result<()> {
        let Some(bytes) = document::bytes_to_read(headers)? else {
            return Ok(());
        };
        let reservation = self.budgets.reserve_document(bytes).await?;
        if let Some(context) = context {
            context.hold_document(reservation);
        }
        Ok(())
    }
}
