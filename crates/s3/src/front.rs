//! The way in: what happens to a request before `s3s` sees it, and to its answer after.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_RANGE, HeaderValue, SERVER};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use objects::{Accounts, Objects};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3ErrorCode, S3Result, s3_error};

use crate::access::{Gate, Keys, SharedKeys};
use crate::body_in::{BodyFailure, ClientBody};
use crate::body_out::FrontBody;
use crate::budget::{MemoryBudget, Reservation};
use crate::checksums::Watch;
use crate::context::{Observer, RequestContext, host_id};
use crate::document::Kind;
use crate::door::Door;
use crate::errors::{from_failure, from_overload};
use crate::form_head::FormBody;
use crate::framing;
use crate::host::{self, Domains};
use crate::limits::{
    ADMIN_BODY_BYTES_MAX, CLOCK_SKEW_SECONDS_MAX, COMPLETION_BODY_BYTES_MAX, FORM_BYTES,
    FORM_FIELDS_MAX, FORM_HEAD_BYTES_MAX, PRESIGNED_SECONDS_MAX, PUT_BYTES_MAX,
    SIGNED_CHUNK_BYTES_MAX, SMALL_REQUEST_BYTES_MAX,
};
use crate::plain_read::PlainRead;
use crate::refuse::{Refusal, complete_error, deny_by_policy};
use crate::routes::{Admin, Routes};
use crate::scope::Scope;
use crate::signing_keys::SigningKeys;

/// The access key of the root account, which alone may administer.
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
    /// Forms, which are parsed before anybody knows who sent them.
    pub forms: MemoryBudget,
    /// XML in both directions: listings and multi-deletes.
    pub documents: MemoryBudget,
    /// Bodies of answers.
    pub reads: MemoryBudget,
    /// Bodies of requests.
    pub writes: MemoryBudget,
}

impl Budgets {
    /// Splits `bytes` among the five.
    pub fn split(bytes: usize) -> Budgets {
        let (small, forms) = (bytes / 8, bytes / 32);
        let documents = (bytes - small) / 5;
        let reads = (bytes - small - documents) / 2;
        let writes = bytes - small - forms - documents - reads;
        Budgets {
            small: MemoryBudget::new("small requests", small),
            forms: MemoryBudget::new("uploads by form", forms),
            reads: MemoryBudget::new("reading", reads),
            documents: MemoryBudget::new("listings and documents", documents),
            writes: MemoryBudget::new("writing", writes),
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
    /// The root account's key. It counts before one of the same id in `accounts`.
    pub credentials: Credentials,
    /// Every other access key that is accepted.
    pub accounts: Accounts,
    /// The region that requests must be signed for.
    pub region: String,
    /// Memory for requests.
    pub budgets: Budgets,
    /// Told about every request at its end.
    pub observer: Arc<dyn Observer>,
    /// Renders the page at [`FrontOptions::metrics_path`] for the root key.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// A path that no bucket can have.
    pub metrics_path: &'static str,
    /// Answers what is asked below [`FrontOptions::admin_path`] with the root key.
    pub admin: Arc<dyn Admin>,
    /// What no path of an object begins with; ends with a slash.
    pub admin_path: &'static str,
    /// Domains, such as `s3.example.com`: the host `bucket.s3.example.com` means that bucket.
    pub domains: Vec<String>,
}

/// The S3 service. Clones share everything.
#[derive(Clone)]
pub struct Front(Arc<Inner>);

struct Inner {
    service: S3Service,
    /// Takes uploads by HTML form and nothing else.
    forms: S3Service,
    objects: Objects,
    keys: Arc<Keys>,
    signing: SigningKeys,
    budgets: Budgets,
    domains: Domains,
    region: String,
    observer: Arc<dyn Observer>,
    server: HeaderValue,
    host_id: HeaderValue,
}

impl Front {
    /// Builds the service over `objects`. It cannot be built without credentials.
    ///
    /// # Errors
    /// A sentence, if the region's name is not one, or a domain's.
    pub fn new(objects: Objects, options: FrontOptions) -> Result<Front, String> {
        let mut config = S3Config::default();
        // Each kind of document has its own bound, which is looked at before.
        config.xml_max_body_size = COMPLETION_BODY_BYTES_MAX;
        config.custom_route_max_body_size = Some(ADMIN_BODY_BYTES_MAX as u64);
        config.put_object_max_size = Some(PUT_BYTES_MAX);
        config.aws_chunked_stream_max_chunk_size = SIGNED_CHUNK_BYTES_MAX;
        config.presigned_url_max_skew_time_secs = CLOCK_SKEW_SECONDS_MAX;
        config.presigned_url_max_expires_secs = PRESIGNED_SECONDS_MAX;
        config.sig_v4_allowed_services = vec!["s3".to_owned()];
        config.enable_sig_v2 = false;
        // Forms are refused before s3s sees them; should one get through, it finds no room.
        config.allow_post_signature = false;
        config.form_max_field_size = FORM_HEAD_BYTES_MAX;
        config.form_max_fields_size = FORM_HEAD_BYTES_MAX;
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

        let domains = Domains::new(&options.domains)?;
        let door = Door {
            objects: objects.clone(),
            region: options.region.clone(),
            budgets: options.budgets.clone(),
        };
        let keys = Arc::new(Keys::new(options.credentials, options.accounts));
        let gate = Gate {
            objects: objects.clone(),
            keys: keys.clone(),
            budgets: options.budgets.clone(),
            domains: domains.clone(),
        };
        let build = |config: S3Config| {
            let mut builder = S3ServiceBuilder::new(door.clone());
            builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
            builder.set_auth(SharedKeys(keys.clone()));
            builder.set_access(gate.clone());
            builder.set_host(domains.clone());
            builder
        };
        let forms = build(for_forms(config.clone())).build();
        let mut builder = build(config);
        builder.set_route(Routes {
            keys: keys.clone(),
            budgets: options.budgets.clone(),
            metrics_path: options.metrics_path,
            metrics: options.metrics,
            admin_path: options.admin_path,
            admin: options.admin,
        });
        Ok(Front(Arc::new(Inner {
            service: builder.build(),
            forms,
            objects,
            keys,
            signing: SigningKeys::new(options.region.clone()),
            budgets: options.budgets,
            domains,
            region: options.region,
            observer: options.observer,
            server: HeaderValue::from_static("cullet"),
            host_id: HeaderValue::from_static(host_id()),
        })))
    }

    /// Whether a request's host names a bucket, so that its path is a key and nothing else.
    pub fn is_bucket_in_host(&self, request: &Parts) -> bool {
        self.0.domains.bucket(request).is_some()
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
        let (mut parts, body) = request.into_parts();
        let one_host = host::settle(&mut parts);
        let bucket = self.0.domains.bucket(&parts);
        let observer = self.0.observer.clone();
        let context = RequestContext::new(&parts, bucket.as_deref(), peer, observer);
        let has_body = !body.is_end_stream();
        context.set_body_unread(has_body);
        if one_host && !has_body {
            let answered = self.plain_read(&parts, bucket.as_deref(), &context).await;
            if let Some(response) = answered {
                return self.finish(response, context);
            }
        }
        let refusal = match one_host {
            true => self.refuse(&parts, has_body, bucket.is_some()),
            false => {
                let message = "The Host header and the :authority of the request differ.";
                Some(Refusal::new(S3ErrorCode::InvalidRequest, message))
            }
        };
        let mut response = match refusal {
            Some(refusal) => refusal.render(&context),
            None => self.serve(parts, body, &context).await,
        };
        complete_error(&mut response, &context);
        self.finish(response, context)
    }

    /// Answers what is a plain read and succeeds; see [`plain_read`](crate::plain_read).
    async fn plain_read(
        &self,
        request: &Parts,
        bucket: Option<&str>,
        context: &RequestContext,
    ) -> Option<Response<Body>> {
        let read = PlainRead::of(request, bucket)?;
        if !host::is_certain(&self.0.domains, &request.headers) {
            return None;
        }
        let grant = |key: &str| self.0.keys.grant(key).ok();
        let verified = read.verify(grant, &self.0.signing)?;
        let caller = verified.grant.account;
        let answered = read
            .answer(&caller, &self.0.objects, &self.0.budgets)
            .await?;
        let (response, reserved) = answered;
        context.set_operation(read.operation());
        context.set_caller(caller, verified.access_key);
        context.hold(reserved);
        Some(response)
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
        let form = framing::is_form(&parts);
        // Bodies of objects are verified as they stream; documents are read by s3s as a whole.
        let in_host = context.is_bucket_in_host();
        let watch = (!form && !framing::is_object_body(&parts, in_host))
            .then(|| Watch::new(&parts.headers, Kind::of(&parts.method, &parts.uri)));
        parts.extensions.insert(context.clone());
        let body = ClientBody::new(body, context.clone(), watch);
        let (service, body) = match form {
            true => {
                let body = match FormBody::begin(body).await {
                    Ok(body) => body,
                    Err(failure) => return broken_body(failure, context),
                };
                match self.0.budgets.forms.reserve(FORM_BYTES).await {
                    Ok(reservation) => context.hold_document(reservation),
                    Err(overloaded) => {
                        let message = overloaded.to_string();
                        return Refusal::new(S3ErrorCode::SlowDown, message).render(context);
                    }
                }
                (&self.0.forms, Body::http_body_unsync(body))
            }
            false => (&self.0.service, Body::http_body_unsync(body)),
        };
        let answered = service.call(Request::from_parts(parts, body)).await;
        let mut response = match answered {
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
        // s3s reports a document that could not be read as an internal error, and a form as a
        // malformed one.
        let unread =
            response.status().is_server_error() || (form && !response.status().is_success());
        match context.body_failure() {
            Some(failure) if unread => return broken_body(failure, context),
            _ if form => deny_by_policy(&mut response),
            _ => {}
        }
        response
    }

    /// What is refused before a signature is looked at.
    fn refuse(&self, parts: &Parts, has_body: bool, in_host: bool) -> Option<Refusal> {
        if parts.method == Method::OPTIONS {
            return Some(Refusal::new(
                S3ErrorCode::NotImplemented,
                "CORS is not there yet.",
            ));
        }
        if let Some(refusal) = framing::refuse(parts, has_body, in_host) {
            return Some(refusal);
        }
        // A form is signed in its fields.
        if framing::is_form(parts) {
            return None;
        }
        if let Some(refusal) = self.refuse_scope(Scope::of(parts)) {
            return Some(refusal);
        }
        if let Some(refusal) = framing::refuse_payload(parts) {
            return Some(refusal);
        }
        framing::refuse_unsaid_length(parts, in_host)
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
        // (HTTP/2 has streams for that, and no such header: who speaks it takes it out.)
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

/// What differs for uploads by HTML form. A policy is signed once and used until it expires, so
/// that the time of its signature may lie as far back as a presigned URL's; `s3s` holds it to
/// what it holds requests to, and to the policy's expiry besides.
fn for_forms(mut config: S3Config) -> S3Config {
    config.allow_post_signature = true;
    config.form_max_parts = FORM_FIELDS_MAX;
    config.post_object_max_file_size = PUT_BYTES_MAX;
    config.presigned_url_max_skew_time_secs = PRESIGNED_SECONDS_MAX;
    config
}

fn broken_body(failure: BodyFailure, context: &RequestContext) -> Response<Body> {
    match from_failure(failure).to_http_response() {
        Ok(response) => response,
        Err(_) => Refusal::new(S3ErrorCode::IncompleteBody, "The body broke off.").render(context),
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
        assert!(budgets.documents.can_hold(crate::limits::ADMIN_BYTES));
        assert!(budgets.small.can_hold(SMALL_REQUEST_BYTES_MAX));
        assert!(budgets.forms.can_hold(FORM_BYTES));
        let mut headers = http::HeaderMap::new();
        headers.insert("content-length", HeaderValue::from_static("150000"));
        let document = crate::document::bytes_to_read("DeleteObjects", &headers);
        assert!(budgets.documents.can_hold(document.unwrap().unwrap()));
    }
}
