//! The way in: what happens to a request before `s3s` sees it, and to its answer after.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, SERVER};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use objects::{AccountId, Objects};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::route::S3Route;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use crate::access::{Gate, Keys, SharedKeys};
use crate::body_in::{BodyFailure, ClientBody};
use crate::body_out::FrontBody;
use crate::budget::{MemoryBudget, Reservation};
use crate::checksums::Watch;
use crate::context::{Observer, RequestContext, host_id};
use crate::document::Kind;
use crate::door::Door;
use crate::errors::{from_failure, from_overload};
use crate::framing;
use crate::limits::{
    CLOCK_SKEW_SECONDS_MAX, COMPLETION_BODY_BYTES_MAX, FORM_FIELDS_BYTES_MAX,
    PRESIGNED_SECONDS_MAX, PUT_BYTES_MAX, SIGNED_CHUNK_BYTES_MAX, SMALL_REQUEST_BYTES_MAX,
};
use crate::refuse::{Refusal, complete_error};
use crate::scope::Scope;
use crate::unsupported::METRICS_OPERATION;

/// The access key of the root account.
#[derive(Clone)]
pub struct Credentials {
    /// Names the key; not a secret.
    pub access_key_id: String,
    /// The secret that requests are signed with.
    pub secret_access_key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// Memory for requests. Small requests, documents, reads and writes draw on different budgets,
/// so that slow clients of one kind cannot starve the others: whatever up- and downloads do,
/// objects can be listed and deleted.
#[derive(Debug, Clone)]
pub struct Budgets {
    /// Requests that need next to nothing.
    pub small: MemoryBudget,
    /// XML in both directions: listings and multi-deletes.
    pub documents: MemoryBudget,
    /// Bodies of answers.
    pub reads: MemoryBudget,
    /// Bodies of requests.
    pub writes: MemoryBudget,
}

impl Budgets {
    /// Splits `bytes` among the four.
    pub fn split(bytes: usize) -> Budgets {
        let small = bytes / 8;
        let documents = (bytes - small) / 5;
        let reads = (bytes - small - documents) / 2;
        Budgets {
            small: MemoryBudget::new("small requests", small),
            reads: MemoryBudget::new("reading", reads),
            documents: MemoryBudget::new("listings and documents", documents),
            writes: MemoryBudget::new("writing", bytes - small - documents - reads),
        }
    }

    pub(crate) fn for_read(&self, bytes: usize) -> &MemoryBudget {
        if bytes <= SMALL_REQUEST_BYTES_MAX {
            &self.small
        } else {
            &self.reads
        }
    }

    /// Listings, whatever their size.
    pub(crate) fn for_listing(&self) -> &MemoryBudget {
        &self.documents
    }

    /// Reserves memory for a document; refuses what would never fit.
    pub(crate) async fn reserve_document(&self, bytes: usize) -> S3Result<Reservation> {
        if !self.documents.can_hold(bytes) {
            let message = "The request's XML document needs more memory than this server has \
                           for it: send fewer keys or parts, or start it with more --memory.";
            return Err(s3_error!(MaxMessageLengthExceeded, "{message}"));
        }
        self.documents.reserve(bytes).await.map_err(from_overload)
    }

    pub(crate) fn for_write(&self, bytes: usize) -> &MemoryBudget {
        if bytes <= SMALL_REQUEST_BYTES_MAX {
            &self.small
        } else {
            &self.writes
        }
    }
}

/// What a [`Front`] is made of.
pub struct FrontOptions {
    /// The only access key that is accepted.
    pub credentials: Credentials,
    /// The account that it belongs to.
    pub account: AccountId,
    /// The region that requests must be signed for.
    pub region: String,
    /// Memory for requests.
    pub budgets: Budgets,
    /// Told about every request at its end.
    pub observer: Arc<dyn Observer>,
    /// Renders the page at [`FrontOptions::metrics_path`] for whoever signed the request.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// A path that no bucket can have.
    pub metrics_path: &'static str,
}

/// The S3 service. Clones share everything.
#[derive(Clone)]
pub struct Front(Arc<Inner>);

struct Inner {
    service: S3Service,
    region: String,
    observer: Arc<dyn Observer>,
    server: HeaderValue,
    host_id: HeaderValue,
}

impl Front {
    /// Builds the service over `objects`. It cannot be built without credentials.
    ///
    /// # Errors
    /// A sentence, if the region's name is not one.
    pub fn new(objects: Objects, options: FrontOptions) -> Result<Front, String> {
        let mut config = S3Config::default();
        // Each kind of document has its own bound, which is looked at before.
        config.xml_max_body_size = COMPLETION_BODY_BYTES_MAX;
        config.put_object_max_size = Some(PUT_BYTES_MAX);
        config.aws_chunked_stream_max_chunk_size = SIGNED_CHUNK_BYTES_MAX;
        config.presigned_url_max_skew_time_secs = CLOCK_SKEW_SECONDS_MAX;
        config.presigned_url_max_expires_secs = PRESIGNED_SECONDS_MAX;
        config.sig_v4_allowed_services = vec!["s3".to_owned()];
        config.enable_sig_v2 = false;
        // Forms are refused before s3s sees them; should one get through, it finds no room.
        config.allow_post_signature = false;
        config.form_max_field_size = FORM_FIELDS_BYTES_MAX;
        config.form_max_fields_size = FORM_FIELDS_BYTES_MAX;
        config.form_max_parts = 1;
        config.post_object_max_file_size = 0;
        config.normalize_forward_slash_path = false;
        // The parameter `x-id` would otherwise outweigh the rest of the request.
        config.operation_id_routing = false;
        let region = s3s::region::Region::new(options.region.clone().into_boxed_str());
        let region = region.map_err(|_| {
            format!(
                "{:?} is not a region's name: use small letters, digits and hyphens",
                options.region
            )
        })?;
        config.expected_region = Some(region);

        let door = Door {
            objects: objects.clone(),
            region: options.region.clone(),
            budgets: options.budgets.clone(),
        };
        let mut builder = S3ServiceBuilder::new(door);
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
        let keys = Arc::new(Keys::new(options.credentials, options.account));
        builder.set_auth(SharedKeys(keys.clone()));
        builder.set_access(Gate {
            objects,
            keys,
            budgets: options.budgets,
        });
        builder.set_route(MetricsRoute {
            path: options.metrics_path,
            render: options.metrics,
        });
        Ok(Front(Arc::new(Inner {
            service: builder.build(),
            region: options.region,
            observer: options.observer,
            server: HeaderValue::from_static("cullet"),
            host_id: HeaderValue::from_static(host_id()),
        })))
    }

    /// Serves one request.
    pub async fn call<B>(
        &self,
        request: Request<B>,
        peer: Option<SocketAddr>,
    ) -> Response<FrontBody>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let (parts, body) = request.into_parts();
        let context = RequestContext::new(&parts, peer, self.0.observer.clone());
        let has_body = !body.is_end_stream();
        context.set_body_unread(has_body);
        let mut response = match self.refuse(&parts, has_body) {
            Some(refusal) => refusal.render(&context),
            None => self.serve(parts, body, &context).await,
        };
        complete_error(&mut response, &context);
        self.finish(response, context)
    }

    async fn serve<B>(
        &self,
        mut parts: Parts,
        body: B,
        context: &Arc<RequestContext>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        // Bodies of objects are verified as they stream; documents are read by s3s as a whole.
        let watch = (!framing::is_object_body(&parts))
            .then(|| Watch::new(&parts.headers, Kind::of(&parts.method, &parts.uri)));
        parts.extensions.insert(context.clone());
        let body = Body::http_body_unsync(ClientBody::new(body, context.clone(), watch));
        let answered = self.0.service.call(Request::from_parts(parts, body)).await;
        let response = match answered {
            Ok(response) => response,
            // What a client sent stands in the answer, where XML and headers have no place for it.
            Err(error) if !context.printable => {
                tracing::debug!(request_id = context.id, %error, "control characters");
                let message = "The request contains control characters that no answer can carry.";
                return Refusal::new(S3ErrorCode::InvalidArgument, message).render(context);
            }
            Err(error) => {
                tracing::error!(request_id = context.id, %error, "an answer could not be made");
                let message = "The answer could not be made.";
                return Refusal::new(S3ErrorCode::InternalError, message).render(context);
            }
        };
        // s3s reports a document that could not be read as an internal error.
        match context.body_failure() {
            Some(failure) if response.status().is_server_error() => broken_body(failure, context),
            _ => response,
        }
    }

    /// What is refused before a signature is looked at.
    fn refuse(&self, parts: &Parts, has_body: bool) -> Option<Refusal> {
        if parts.method == Method::OPTIONS {
            return Some(Refusal::new(
                S3ErrorCode::NotImplemented,
                "CORS is not there yet.",
            ));
        }
        if let Some(refusal) = framing::refuse(parts, has_body) {
            return Some(refusal);
        }
        if let Some(refusal) = self.refuse_scope(Scope::of(parts)) {
            return Some(refusal);
        }
        if let Some(refusal) = framing::refuse_payload(parts) {
            return Some(refusal);
        }
        framing::refuse_unsaid_length(parts)
    }

    fn refuse_scope(&self, scope: Scope) -> Option<Refusal> {
        let (credential, code) = match scope {
            Scope::Header(credential) => (credential, S3ErrorCode::AuthorizationHeaderMalformed),
            Scope::Query(credential) => {
                (credential, S3ErrorCode::AuthorizationQueryParametersError)
            }
            Scope::Anonymous => {
                let message = "Anonymous requests are refused: sign the request.";
                return Some(Refusal::new(S3ErrorCode::AccessDenied, message));
            }
            Scope::Both => {
                let message = "Only one auth mechanism allowed; only the X-Amz-Algorithm query \
                               parameter, Signature query string parameter or the Authorization \
                               header should be specified";
                return Some(Refusal::new(S3ErrorCode::InvalidArgument, message));
            }
            Scope::Outdated => {
                let message = "The authorization mechanism you have provided is not supported. \
                               Please use AWS4-HMAC-SHA256. (For presigned URLs: `aws configure \
                               set default.s3.signature_version s3v4`.)";
                return Some(Refusal::new(S3ErrorCode::InvalidRequest, message));
            }
            Scope::MalformedHeader => {
                let message = "The authorization header is malformed.";
                return Some(Refusal::new(
                    S3ErrorCode::AuthorizationHeaderMalformed,
                    message,
                ));
            }
            Scope::BadExpiry(message) => {
                return Some(Refusal::new(
                    S3ErrorCode::AuthorizationQueryParametersError,
                    message,
                ));
            }
            Scope::MalformedQuery => {
                let message = "The authorization query parameters are malformed.";
                return Some(Refusal::new(
                    S3ErrorCode::AuthorizationQueryParametersError,
                    message,
                ));
            }
        };
        if credential.service != "s3" {
            return Some(Refusal::service(&credential.service));
        }
        if credential.region != self.0.region {
            let message = format!(
                "The authorization header is malformed; the region '{}' is wrong; expecting '{}'",
                credential.region, self.0.region
            );
            return Some(Refusal::new(code, message).with("Region", self.0.region.as_str()));
        }
        None
    }

    fn finish(
        &self,
        response: Response<Body>,
        context: Arc<RequestContext>,
    ) -> Response<FrontBody> {
        let (mut parts, body) = response.into_parts();
        if let Ok(id) = HeaderValue::from_str(&context.id) {
            parts.headers.insert("x-amz-request-id", id);
        }
        parts.headers.insert("x-amz-id-2", self.0.host_id.clone());
        parts.headers.insert(SERVER, self.0.server.clone());
        // Nobody can tell whether a client that was answered early sends its body or not; above
        // all with `Expect: 100-continue`. Its next request must not be taken for that body.
        if context.is_body_unread() {
            parts
                .headers
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // s3s gives every HeadObject the status 200, also when it is about a part.
        if context.method == Method::HEAD
            && parts.status == StatusCode::OK
            && parts.headers.contains_key(CONTENT_RANGE)
        {
            parts.status = StatusCode::PARTIAL_CONTENT;
        }
        context.set_answered(parts.status);
        let body = if context.method == Method::HEAD {
            Body::empty()
        } else {
            body
        };
        Response::from_parts(parts, FrontBody::new(body, context))
    }
}

fn broken_body(failure: BodyFailure, context: &RequestContext) -> Response<Body> {
    match from_failure(failure).to_http_response() {
        Ok(response) => response,
        Err(_) => Refusal::new(S3ErrorCode::IncompleteBody, "The body broke off.").render(context),
    }
}

/// The server's own page, for clients that sign their request.
struct MetricsRoute {
    path: &'static str,
    render: Arc<dyn Fn() -> String + Send + Sync>,
}

#[async_trait::async_trait]
impl S3Route for MetricsRoute {
    fn is_match(
        &self,
        method: &Method,
        uri: &http::Uri,
        _headers: &http::HeaderMap,
        extensions: &mut http::Extensions,
    ) -> bool {
        let hit = *method == Method::GET && uri.path() == self.path;
        if hit && let Some(context) = extensions.get::<Arc<RequestContext>>() {
            context.set_operation(METRICS_OPERATION);
        }
        hit
    }

    async fn call(&self, _request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let mut response = S3Response::new(Body::from((self.render)()));
        let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers.insert(CONTENT_TYPE, text);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{GET_WINDOW_BYTES, PUT_WINDOW_BYTES};

    /// What a request reserves must be there, or it would hold more than it could reserve.
    #[test]
    fn the_smallest_budgets_hold_the_largest_requests() {
        // What the smallest server has for requests.
        let budgets = Budgets::split(13 * 1024 * 1024);
        let signed_put = PUT_WINDOW_BYTES + SIGNED_CHUNK_BYTES_MAX;
        assert!(budgets.writes.can_hold(signed_put));
        assert!(budgets.reads.can_hold(GET_WINDOW_BYTES));
        assert!(budgets.small.can_hold(SMALL_REQUEST_BYTES_MAX));
        let mut headers = http::HeaderMap::new();
        headers.insert("content-length", HeaderValue::from_static("150000"));
        let document = crate::document::bytes_to_read("DeleteObjects", &headers);
        assert!(budgets.documents.can_hold(document.unwrap().unwrap()));
    }
}
