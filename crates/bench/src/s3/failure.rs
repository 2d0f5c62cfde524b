//! Why a request failed: a few words to count it by, and a sentence that says what to do.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Error;
use crate::endpoint::tls_failure;
use crate::http::HttpError;
use crate::limits::CLOCK_SKEW_MAX;

/// One request that did not come to what it should.
#[derive(Debug)]
pub(crate) enum Failure {
    Connect(io::Error),
    TimedOut,
    /// The server closed the connection instead of answering, or within its answer.
    Closed,
    Broken(io::Error),
    Malformed(&'static str),
    Refused(Refusal),
    /// A body of another length than the object's.
    Length {
        got: u64,
        expected: u64,
    },
    /// A body with other bytes than the object's.
    Bytes,
    /// A listing that is not what it must be.
    Listing(String),
}

/// An answer that says no.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// S3's word for the reason; empty if there is none.
    pub(crate) code: String,
    pub(crate) message: String,
    /// The server's clock, in seconds since 1970.
    pub(crate) date: Option<u64>,
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Failure {
        match error {
            HttpError::ClosedBefore | HttpError::ClosedWithin => Failure::Closed,
            HttpError::Malformed(what) => Failure::Malformed(what),
            HttpError::Io(error) => Failure::Broken(error),
        }
    }
}

impl Failure {
    /// What it is counted by.
    pub(crate) fn kind(&self) -> String {
        match self {
            Failure::Connect(error) => format!("cannot connect: {error}"),
            Failure::TimedOut => "timed out".to_owned(),
            Failure::Closed => "connection closed by the server".to_owned(),
            Failure::Broken(error) => format!("connection broken: {error}"),
            Failure::Malformed(what) => format!("not HTTP: {what}"),
            Failure::Refused(refusal) => format!("{} {}", refusal.status, refusal.code)
                .trim_end()
                .to_owned(),
            Failure::Length { .. } => "body of a wrong length".to_owned(),
            Failure::Bytes => "body with wrong bytes".to_owned(),
            Failure::Listing(what) => what.clone(),
        }
    }

    /// Whether the same request may succeed a little later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Failure::Closed | Failure::Broken(_) | Failure::TimedOut => true,
            Failure::Refused(refusal) => matches!(refusal.status, 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// A sentence about what was tried at `url`, why it failed, and what to do.
    pub(crate) fn explained(&self, tried: &str, url: &str) -> Error {
        let (why, advice) = match self {
            Failure::Connect(error) => match tls_failure(error) {
                Some(failure) => (format!("cannot connect to {url}: {failure}"), ""),
                None => (
                    format!("cannot connect to {url}: {error}"),
                    "start the server, or name another --endpoint",
                ),
            },
            Failure::TimedOut => (
                format!("{url} does not answer in time"),
                "look at the server, or give it longer with --timeout",
            ),
            Failure::Closed | Failure::Broken(_) | Failure::Malformed(_) => (
                format!("{url}: {}", self.kind()),
                "is that an S3 server? If it speaks TLS, write https://",
            ),
            Failure::Refused(refusal) => (refusal.described(), refusal.advice()),
            Failure::Length { got, expected } => (
                format!("a body has {got} bytes instead of {expected}"),
                "with --prepared, --size must be the size of the objects that are there",
            ),
            Failure::Bytes | Failure::Listing(_) => (self.kind(), ""),
        };
        let advice = if advice.is_empty() {
            String::new()
        } else {
            format!("; {advice}")
        };
        Error::Server(format!("{tried}: {why}{advice}"))
    }
}

impl Refusal {
    /// From an answer's status and body.
    pub(crate) fn new(status: u16, body: &[u8], date: Option<u64>) -> Refusal {
        let text = String::from_utf8_lossy(body);
        let element = |name| element(&text, name).unwrap_or_default();
        Refusal {
            status,
            code: element("Code").chars().take(64).collect(),
            message: element("Message").chars().take(300).collect(),
            date,
        }
    }

    fn described(&self) -> String {
        let skew = match self.skew() {
            Some(skew) => format!(
                " (the server's clock is {} s away from ours)",
                skew.as_secs()
            ),
            None => String::new(),
        };
        match (self.code.as_str(), self.message.as_str()) {
            ("", _) => format!("the server answers {}{skew}", self.status),
            (code, "") => format!("the server answers {} {code}{skew}", self.status),
            (code, message) => format!(
                "the server answers {} {code}: {}{skew}",
                self.status,
                message.trim_end_matches('.')
            ),
        }
    }

    /// How far the server's clock is from ours, where that is too far for signatures.
    fn skew(&self) -> Option<Duration> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let skew = Duration::from_secs(now.as_secs().abs_diff(self.date?));
        (skew > CLOCK_SKEW_MAX).then_some(skew)
    }

    fn advice(&self) -> &'static str {
        const CREDENTIALS: &str = "set CULLET_ACCESS_KEY_ID and CULLET_SECRET_ACCESS_KEY (or \
             AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) to the server's; unsigned requests \
             (--anonymous) are for servers that allow them";
        if self.skew().is_some() || self.code == "RequestTimeTooSkewed" {
            return "set the clocks of both machines, because signatures hold the time";
        }
        let region = self.code.starts_with("Authorization") || self.code == "InvalidRegion";
        if region && self.message.to_lowercase().contains("region") {
            return "name the server's region with --region";
        }
        match (self.code.as_str(), self.status) {
            ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "AccessDenied", _) => CREDENTIALS,
            ("", 401 | 403) => CREDENTIALS,
            ("NoSuchBucket", _) => {
                "make the bucket first, or leave --bucket out to have one made and removed"
            }
            ("NoSuchKey", _) | ("", 404) => {
                "the objects must be there with --prepared: see `cullet help bench s3` for names"
            }
            ("SlowDown" | "ServiceUnavailable", _) | (_, 503) => {
                "the server has too much to do: try with less --concurrency"
            }
            ("" | "MethodNotAllowed", 405 | 501) => {
                "if it only serves files, lay them out and use --op get --prepared --anonymous"
            }
            _ => "",
        }
    }
}

/// The content of the first XML element of that name that has no attributes.
pub(crate) fn element(xml: &str, name: &str) -> Option<String> {
    let (_, after) = xml.split_once(&format!("<{name}>"))?;
    let (content, _) = after.split_once(&format!("</{name}>"))?;
    Some(
        content
            .replace("&quot;", "\"")
            .replace("&#34;", "\"")
            .replace("&#39;", "'")
            .replace("&apos;", "'")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> Failure {
        Failure::Refused(Refusal::new(status, body.as_bytes(), None))
    }

    #[test]
    fn refusals_are_counted_by_status_and_code() {
        let slow = refused(
            503,
            "<Error><Code>SlowDown</Code><Message>x</Message></Error>",
        );
        assert_eq!(slow.kind(), "503 SlowDown");
        assert!(slow.is_passing());
        assert_eq!(refused(404, "<html>").kind(), "404");
    }

    #[test]
    fn explanations_say_what_to_do() {
        for (status, body, advice) in [
            (
                403,
                "<Code>InvalidAccessKeyId</Code>",
                "CULLET_ACCESS_KEY_ID",
            ),
            (403, "", "CULLET_ACCESS_KEY_ID"),
            (404, "<Code>NoSuchBucket</Code>", "--bucket"),
            (404, "<html>", "--prepared"),
            (405, "<html>", "--anonymous"),
            (403, "<Code>RequestTimeTooSkewed</Code>", "clocks"),
            (
                400,
                "<Code>AuthorizationQueryParametersError</Code><Message>the region 'x' is wrong</Message>",
                "--region",
            ),
        ] {
            let sentence = refused(status, body)
                .explained("trying", "http://x")
                .to_string();
            assert!(sentence.contains(advice), "{sentence}");
        }
    }

    #[test]
    fn another_clock_is_seen() {
        let refusal = Refusal::new(403, b"<Code>AccessDenied</Code>", Some(1_369_353_600));
        let sentence = Failure::Refused(refusal)
            .explained("trying", "http://x")
            .to_string();
        assert!(
            sentence.contains("clock is") && sentence.contains("set the clocks"),
            "{sentence}"
        );
    }
}
