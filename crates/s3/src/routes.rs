//! The server's own paths, for clients that sign their requests with the root key: metrics, and
//! the administration of accounts and access keys.
//!
//! What must always hold: a request gets here with a verified signature, and is answered only
//! if the root key made it. For administration the signature covers the body, so that presigned
//! URLs and unsigned bodies are refused.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Extensions, HeaderMap, Method, StatusCode, Uri};
use s3s::route::S3Route;
use s3s::{Body, S3Request, S3Response, S3Result, s3_error};

use crate::access::Keys;
use crate::context::RequestContext;
use crate::errors::from_overload;
use crate::front::Budgets;
use crate::limits::{ADMIN_BODY_BYTES_MAX, ADMIN_BYTES};
use crate::unsupported::{ADMIN_OPERATION, METRICS_OPERATION};

/// A request to administer, signed by the root key.
#[derive(Debug, Clone)]
pub struct AdminRequest {
    /// What follows [`FrontOptions::admin_path`](crate::FrontOptions::admin_path).
    pub operation: String,
    /// At most 16 KiB.
    pub body: Bytes,
}

/// Its answer: a JSON document. It may hold a secret and is never logged.
#[derive(Clone)]
pub struct AdminAnswer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The document, at most [`limits::ADMIN_ANSWER_BYTES_MAX`](crate::limits) bytes.
    pub document: String,
}

/// Administers accounts and access keys.
#[async_trait::async_trait]
pub trait Admin: Send + Sync + 'static {
    /// Answers a request. Goes on to its end though nobody waits for it any more.
    async fn answer(&self, request: AdminRequest) -> AdminAnswer;
}

/// The paths, and what answers there.
pub(crate) struct Routes {
    pub(crate) keys: Arc<Keys>,
    pub(crate) budgets: Budgets,
    pub(crate) metrics_path: &'static str,
    pub(crate) metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Ends with a slash.
    pub(crate) admin_path: &'static str,
    pub(crate) admin: Arc<dyn Admin>,
}

#[async_trait::async_trait]
impl S3Route for Routes {
    fn is_match(
        &self,
        method: &Method,
        uri: &Uri,
        _headers: &HeaderMap,
        extensions: &mut Extensions,
    ) -> bool {
        let operation = match uri.path() {
            path if *method == Method::GET && path == self.metrics_path => METRICS_OPERATION,
            path if path.starts_with(self.admin_path) => ADMIN_OPERATION,
            _ => return false,
        };
        let Some(context) = extensions.get::<Arc<RequestContext>>() else {
            return false;
        };
        // A bucket in the host makes it a key.
        if context.is_bucket_in_host() {
            return false;
        }
        context.set_operation(operation);
        true
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        self.check_root(&request)?;
        match request.uri.path().strip_prefix(self.admin_path) {
            Some(operation) => {
                let operation = operation.to_owned();
                self.administer(operation, request).await
            }
            None => {
                let mut response = S3Response::new(Body::from((self.metrics)()));
                let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers.insert(CONTENT_TYPE, text);
                Ok(response)
            }
        }
    }
}

impl Routes {
    fn check_root(&self, request: &S3Request<Body>) -> S3Result<()> {
        let Some(credentials) = &request.credentials else {
            return Err(s3_error!(AccessDenied, "Sign the request."));
        };
        let key = &credentials.access_key;
        let account = self.keys.account_of(key)?;
        if let Some(context) = request.extensions.get::<Arc<RequestContext>>() {
            context.set_caller(account, key);
        }
        if self.keys.is_root(key) {
            return Ok(());
        }
        Err(s3_error!(
            AccessDenied,
            "Only the root key may do this: the one in the server's environment or credentials \
             file."
        ))
    }

    async fn administer(
        &self,
        operation: String,
        mut request: S3Request<Body>,
    ) -> S3Result<S3Response<Body>> {
        if request.method != Method::POST {
            return Err(s3_error!(MethodNotAllowed, "Administration takes POST."));
        }
        if !is_body_signed(&request.headers) {
            return Err(s3_error!(
                InvalidRequest,
                "Administration takes requests that are signed by header, with the SHA-256 of \
                 their body in x-amz-content-sha256."
            ));
        }
        let reserved = self.budgets.documents.reserve(ADMIN_BYTES).await;
        let reserved = reserved.map_err(from_overload)?;
        // The front says why a body could not be read.
        let read = request.input.store_all_limited(ADMIN_BODY_BYTES_MAX).await;
        let body = read.map_err(|_| s3_error!(InternalError, "The body could not be read."))?;
        let answer = self.admin.answer(AdminRequest { operation, body }).await;
        if let Some(context) = request.extensions.get::<Arc<RequestContext>>() {
            context.hold(reserved);
        }
        let mut response = S3Response::new(Body::from(answer.document));
        response.status = Some(answer.status);
        let json = HeaderValue::from_static("application/json");
        response.headers.insert(CONTENT_TYPE, json);
        let no_store = HeaderValue::from_static("no-store");
        response.headers.insert(CACHE_CONTROL, no_store);
        Ok(response)
    }
}

/// Whether the signature is in a header and names the body's own hash, which is verified while
/// the body is read.
fn is_body_signed(headers: &HeaderMap) -> bool {
    let is_sum = |value: &HeaderValue| {
        let digit = |byte: &u8| byte.is_ascii_hexdigit();
        value.len() == 64 && value.as_bytes().iter().all(digit)
    };
    let mut sums = headers.get_all("x-amz-content-sha256").into_iter();
    headers.contains_key(AUTHORIZATION) && sums.next().is_some_and(is_sum) && sums.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_administration_are_signed() {
        let sum = "0".repeat(64);
        let headers = |authorization: bool, sums: &[&str]| {
            let mut headers = HeaderMap::new();
            if authorization {
                headers.insert(
                    AUTHORIZATION,
                    HeaderValue::from_static("AWS4-HMAC-SHA256 x"),
                );
            }
            for sum in sums {
                headers.append("x-amz-content-sha256", HeaderValue::from_str(sum).unwrap());
            }
            is_body_signed(&headers)
        };
        assert!(headers(true, &[&sum]));
        assert!(!headers(false, &[&sum]), "presigned");
        for sums in [&[][..], &["UNSIGNED-PAYLOAD"], &[&sum, &sum], &["0"]] {
            assert!(!headers(true, sums), "{sums:?}");
        }
    }
}
