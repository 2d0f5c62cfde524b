//! Answers that no operation gives: for connections without a place, heads that are no HTTP,
//! and requests that there is no memory for. They carry ids of their own, as every answer does.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SERVER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use s3::{host_id, new_request_id};

/// Adds what every answer carries.
pub(crate) fn add_ids(headers: &mut HeaderMap, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert("x-amz-request-id", id);
    }
    headers.insert("x-amz-id-2", HeaderValue::from_static(host_id()));
    headers.insert(SERVER, HeaderValue::from_static("cullet"));
}

/// An error document. `code` and `message` need no escaping.
fn document(code: &str, message: &str, id: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>{message}</Message><RequestId>{id}</RequestId><HostId>{}</HostId></Error>",
        host_id()
    )
}

/// The answer to a request that there is no memory for.
pub(crate) fn slow_down(message: &str) -> Response<Full<Bytes>> {
    let id = new_request_id();
    let mut response = Response::new(Full::new(document("SlowDown", message, &id).into()));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    add_ids(headers, &id);
    response
}

/// A whole answer for a connection without a place, or that spoke no HTTP so far.
pub(crate) fn raw(status: StatusCode) -> Bytes {
    let (code, message) = match status {
        StatusCode::SERVICE_UNAVAILABLE => ("SlowDown", "Too many connections; try again shortly."),
        StatusCode::URI_TOO_LONG => ("InvalidURI", "The URI is too long."),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => (
            "RequestHeaderSectionTooLarge",
            "Your request header section exceeds the maximum allowed size.",
        ),
        _ => (
            "BadRequest",
            "An error occurred when parsing the HTTP request.",
        ),
    };
    whole(status, code, message)
}

/// A whole answer, unencrypted, for a client that does not know that this port speaks TLS.
pub(crate) fn speaks_tls() -> Bytes {
    let message = "This port speaks TLS: use https:// instead of http://.";
    whole(StatusCode::BAD_REQUEST, "InvalidRequest", message)
}

fn whole(status: StatusCode, code: &str, message: &str) -> Bytes {
    let id = new_request_id();
    let document = document(code, message, &id);
    let retry = match status {
        StatusCode::SERVICE_UNAVAILABLE => "retry-after: 1\r\n",
        _ => "",
    };
    let answer = format!(
        "HTTP/1.1 {} {}\r\nconnection: close\r\ncontent-type: application/xml\r\n{retry}\
         x-amz-request-id: {id}\r\nx-amz-id-2: {}\r\nserver: cullet\r\ncontent-length: {}\r\n\r\n\
         {document}",
        status.as_str(),
        status.canonical_reason().unwrap_or("Error"),
        host_id(),
        document.len(),
    );
    answer.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_whole_answers_and_differ() {
        let answers = [503, 400, 431, 414].map(|status| {
            let bytes = raw(StatusCode::from_u16(status).unwrap());
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert!(head.contains(&format!("content-length: {}", body.len())));
            let id = head.split("x-amz-request-id: ").nth(1).unwrap();
            let id = id.split("\r\n").next().unwrap().to_owned();
            assert!(body.contains(&format!("<RequestId>{id}</RequestId>")));
            id
        });
        let ids: std::collections::BTreeSet<String> = answers.into_iter().collect();
        assert_eq!(ids.len(), 4);
    }
}
