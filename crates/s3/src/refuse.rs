//! Answers that the front gives by itself, and the ids that every error answer carries.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use s3s::{Body, S3ErrorCode};

use crate::context::{RequestContext, host_id};
use crate::names::escape_xml;

/// How clients of a service expect errors to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// S3's XML.
    S3,
    /// The XML of STS, IAM and their like.
    Query,
    /// The JSON of Lambda and its like.
    Json,
}

/// An error answer, before it is rendered.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    dialect: Dialect,
    pub(crate) status: StatusCode,
    pub(crate) code: S3ErrorCode,
    pub(crate) message: String,
    /// Further elements of the XML, such as `Region`.
    pub(crate) details: Vec<(&'static str, String)>,
}

impl Refusal {
    /// A refusal with a code that S3 knows, and S3's status for it.
    pub(crate) fn new(code: S3ErrorCode, message: impl Into<String>) -> Refusal {
        let status = code.status_code().unwrap_or(StatusCode::BAD_REQUEST);
        let (dialect, message) = (Dialect::S3, message.into());
        Refusal {
            dialect,
            status,
            code,
            message,
            details: Vec::new(),
        }
    }

    /// The refusal of a whole service, in words that its clients understand.
    pub(crate) fn service(service: &str) -> Refusal {
        let message = format!("The service {service} is not there yet.");
        let mut refusal = Refusal::new(S3ErrorCode::NotImplemented, message);
        refusal.dialect = match service {
            "sts" | "iam" | "sns" | "sqs" | "monitoring" => Dialect::Query,
            "s3express" | "s3-object-lambda" | "s3-outposts" => Dialect::S3,
            _ => Dialect::Json,
        };
        refusal
    }

    /// Adds an element to the XML.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Refusal {
        self.details.push((name, value.into()));
        self
    }

    /// The answer as S3 words it.
    pub(crate) fn render(&self, context: &RequestContext) -> Response<Body> {
        let (text, content_type) = match self.dialect {
            Dialect::S3 => (self.s3_xml(context), "application/xml"),
            Dialect::Query => (self.query_xml(context), "text/xml"),
            Dialect::Json => (self.json(), "application/json"),
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if self.dialect == Dialect::Json {
            if let Ok(code) = HeaderValue::from_str(self.code.as_str()) {
                headers.insert("x-amzn-errortype", code);
            }
            if let Ok(id) = HeaderValue::from_str(&context.id) {
                headers.insert("x-amzn-requestid", id);
            }
        }
        response
    }

    fn s3_xml(&self, context: &RequestContext) -> String {
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message>",
            self.code.as_str(),
            escape_xml(&self.message)
        );
        for (name, value) in &self.details {
            xml.push_str(&format!("<{name}>{}</{name}>", escape_xml(value)));
        }
        xml.push_str(&ids(context));
        xml.push_str(ERROR_END);
        xml
    }

    fn query_xml(&self, context: &RequestContext) -> String {
        format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{}</Code><Message>{}</Message></Error>\
             <RequestId>{}</RequestId></ErrorResponse>",
            self.code.as_str(),
            escape_xml(&self.message),
            context.id
        )
    }

    /// Nothing in it needs escaping but what a client put into its credential scope.
    fn json(&self) -> String {
        let harmless = |c: &char| !c.is_control() && *c != '"' && *c != '\\';
        let message: String = self.message.chars().filter(harmless).collect();
        format!("{{\"Type\":\"User\",\"message\":\"{message}\"}}")
    }
}

/// How every error document ends.
const ERROR_END: &str = "</Error>";

/// The elements that name a request in an error document.
fn ids(context: &RequestContext) -> String {
    format!(
        "<Resource>{}</Resource><RequestId>{}</RequestId><HostId>{}</HostId>",
        escape_xml(&context.path),
        context.id,
        host_id()
    )
}

/// `s3s` calls a form that its policy does not allow a wrong policy; S3 denies it access.
pub(crate) fn deny_by_policy(response: &mut Response<Body>) {
    const WRONG: &str = "<Code>InvalidPolicyDocument</Code><Message>Policy condition ";
    const DENIED: &str =
        "<Code>AccessDenied</Code><Message>Invalid according to Policy: Policy condition ";
    let document = response.body().bytes();
    let document = document.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
    if let Some((start, end)) = document.as_deref().and_then(|text| text.split_once(WRONG)) {
        let denied = format!("{start}{DENIED}{end}");
        *response.status_mut() = StatusCode::FORBIDDEN;
        *response.body_mut() = Body::from(denied);
    }
}

/// Adds the request's ids to an error document that was made without them, and its type, which
/// an error with headers of its own lacks.
pub(crate) fn complete_error(response: &mut Response<Body>, context: &RequestContext) {
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return;
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .entry(RETRY_AFTER)
            .or_insert(HeaderValue::from_static("1"));
    }
    let Some(document) = response.body().bytes() else {
        return;
    };
    let Some(start) = document.strip_suffix(ERROR_END.as_bytes()) else {
        return;
    };
    response
        .headers_mut()
        .entry(CONTENT_TYPE)
        .or_insert(HeaderValue::from_static("application/xml"));
    let has_ids = start
        .windows(b"<RequestId>".len())
        .any(|window| window == b"<RequestId>");
    if has_ids {
        return;
    }
    let mut completed = Vec::with_capacity(document.len() + 256);
    completed.extend_from_slice(start);
    completed.extend_from_slice(ids(context).as_bytes());
    completed.extend_from_slice(ERROR_END.as_bytes());
    *response.body_mut() = Body::from(Bytes::from(completed));
}
