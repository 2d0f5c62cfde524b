//! One request to a server, signed, over a connection of its own: HTTP/1.1, as much as asking
//! for JSON needs.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::SystemTime;

use anyhow::Context as _;
use s3::Credentials;
use serde_json::Value;
use zeroize::Zeroizing;

use super::sigv4::{Unsigned, sign};
use crate::UsageError;
use crate::admin::ADMIN;
use crate::limits::{ADMIN_ANSWER_BYTES_MAX, ADMIN_ANSWER_TIMEOUT, ADMIN_CONNECT_TIMEOUT};

/// A server, and who asks it.
pub(crate) struct Client {
    endpoint: Endpoint,
    region: String,
    credentials: Credentials,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Endpoint {
    /// As it was given.
    url: String,
    /// For the `Host` header: without the port if that is the usual one.
    host: String,
    name: String,
    port: u16,
}

impl Endpoint {
    fn parse(url: &str) -> Result<Endpoint, UsageError> {
        let wrong = |why: &str| {
            UsageError::new(format!(
                "--endpoint {url:?} {why}: write it like http://127.0.0.1:9000"
            ))
        };
        if url.starts_with("https://") {
            return Err(wrong("asks for TLS, which these commands do not speak yet"));
        }
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(wrong("is no address of a server"));
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority = rest.parse::<http::uri::Authority>();
        let authority = authority.map_err(|_| wrong("is no address of a server"))?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(wrong("is no address of a server"));
        }
        let name = authority.host();
        let port = match authority.as_str().strip_prefix(name) {
            Some("") => Some(80),
            Some(port) => port.strip_prefix(':').and_then(|port| port.parse().ok()),
            None => None,
        };
        let port = port.ok_or_else(|| wrong("has no port that can be"))?;
        let host = match port {
            80 => name.to_owned(),
            _ => format!("{name}:{port}"),
        };
        Ok(Endpoint {
            url: url.to_owned(),
            host,
            name: name.trim_matches(['[', ']']).to_owned(),
            port,
        })
    }
}

impl Client {
    /// # Errors
    /// [`UsageError`], if the endpoint is none.
    pub(crate) fn new(
        endpoint: &str,
        region: &str,
        credentials: Credentials,
    ) -> Result<Client, UsageError> {
        Ok(Client {
            endpoint: Endpoint::parse(endpoint)?,
            region: region.to_owned(),
            credentials,
        })
    }

    /// Has an operation carried out.
    ///
    /// # Errors
    /// A sentence that says why it was not, and what to do.
    pub(crate) fn ask(&self, operation: &str, fields: &Value) -> anyhow::Result<Value> {
        let path = format!("{ADMIN}{operation}");
        let body = fields.to_string();
        let request = Unsigned {
            host: &self.endpoint.host,
            path: &path,
            region: &self.region,
            body: body.as_bytes(),
        };
        let signed = sign(&request, &self.credentials, SystemTime::now());
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: \
             application/json\r\ncontent-length: {}\r\n",
            self.endpoint.host,
            body.len()
        );
        for (name, value) in signed {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let request = format!("{head}\r\n{body}");
        let answer = self.exchange(request.as_bytes())?;
        let answer = Answer::parse(&answer)
            .with_context(|| format!("{} did not answer in HTTP", self.endpoint.url))?;
        self.understand(&answer)
    }

    fn connect(&self) -> anyhow::Result<TcpStream> {
        let (url, place) = (
            &self.endpoint.url,
            (self.endpoint.name.as_str(), self.endpoint.port),
        );
        let addresses = place
            .to_socket_addrs()
            .with_context(|| format!("{url} cannot be found"))?;
        let mut failure = None;
        for address in addresses {
            match TcpStream::connect_timeout(&address, ADMIN_CONNECT_TIMEOUT) {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = Some(error),
            }
        }
        let failure = failure.unwrap_or_else(|| ErrorKind::NotFound.into());
        Err(match failure.kind() {
            ErrorKind::ConnectionRefused => anyhow::anyhow!(
                "no server listens on {url}: start it with `cullet server DISK`, or name another \
                 with --endpoint"
            ),
            _ => anyhow::anyhow!("no connection to {url}: {failure}"),
        })
    }

    fn exchange(&self, request: &[u8]) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let url = &self.endpoint.url;
        let mut stream = self.connect()?;
        stream
            .set_read_timeout(Some(ADMIN_ANSWER_TIMEOUT))
            .and_then(|()| stream.set_write_timeout(Some(ADMIN_ANSWER_TIMEOUT)))
            .context("a time limit cannot be set")?;
        stream
            .write_all(request)
            .with_context(|| format!("{url} takes no request"))?;
        let mut answer = Zeroizing::new(Vec::new());
        let limit = ADMIN_ANSWER_BYTES_MAX as u64 + 1;
        let read = stream.take(limit).read_to_end(&mut answer);
        read.with_context(|| {
            format!("the answer of {url} broke off: whether it was done, a list tells")
        })?;
        anyhow::ensure!(
            answer.len() <= ADMIN_ANSWER_BYTES_MAX,
            "{url} answers with more than a cullet server would"
        );
        Ok(answer)
    }

    /// The document of an answer, or the sentence that a refusal comes to.
    fn understand(&self, answer: &Answer<'_>) -> anyhow::Result<Value> {
        let document = serde_json::from_slice::<Value>(answer.body).ok();
        if let Some(document) = document {
            if answer.status == 200 {
                return Ok(document);
            }
            if let Some(sentence) = document.get("error").and_then(Value::as_str) {
                anyhow::bail!("{sentence}");
            }
        }
        let body = String::from_utf8_lossy(answer.body);
        let message = element(&body, "Message").unwrap_or_default();
        let (url, id) = (&self.endpoint.url, &self.credentials.access_key_id);
        Err(match element(&body, "Code").as_deref() {
            Some("SignatureDoesNotMatch") => anyhow::anyhow!(
                "the secret for the access key {id} is not the one that {url} knows: use the \
                 root key that it was started with"
            ),
            Some("InvalidAccessKeyId") => anyhow::anyhow!(
                "{url} does not accept the access key {id}: use the root key that it was \
                 started with ({message})"
            ),
            Some("RequestTimeTooSkewed") => anyhow::anyhow!(
                "the clocks of this machine and of {url} are more than 15 minutes apart; there it \
                 is {}: set the one that is wrong",
                answer.date.unwrap_or("another time")
            ),
            Some("AuthorizationHeaderMalformed") if element(&body, "Region").is_some() => {
                anyhow::anyhow!(
                    "{url} is in another region: say --region {}",
                    element(&body, "Region").unwrap_or_default()
                )
            }
            Some("AccessDenied") => {
                anyhow::anyhow!("{url} refuses the access key {id}: {message}")
            }
            Some(code) => anyhow::anyhow!("{url} refuses: {message} ({code})"),
            None => anyhow::anyhow!(
                "{url} answers with status {}, and not as a cullet server would",
                answer.status
            ),
        })
    }
}

/// The text of an element of an error document, which has no nested ones of that name.
fn element(document: &str, name: &str) -> Option<String> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let plain = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&#39;", "'"),
    ];
    let text = plain
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    Some(text.replace("&amp;", "&"))
}

/// An HTTP answer whose body ends with the connection.
#[derive(Debug, PartialEq, Eq)]
struct Answer<'a> {
    status: u16,
    date: Option<&'a str>,
    body: &'a [u8],
}

impl Answer<'_> {
    fn parse(bytes: &[u8]) -> Option<Answer<'_>> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut body = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.")?;
        let status = status.split(' ').nth(1)?.parse().ok()?;
        let mut date = None;
        for line in lines {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "date" => date = Some(value),
                // What is cut short is no answer.
                "content-length" => body = body.get(..value.parse().ok()?)?,
                "transfer-encoding" => return None,
                _ => {}
            }
        }
        Some(Answer { status, date, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_told_apart() {
        let parsed = |url| Endpoint::parse(url).map(|e| (e.host, e.name, e.port));
        let at = |host: &str, name: &str, port| (host.to_owned(), name.to_owned(), port);
        for (url, expected) in [
            (
                "http://127.0.0.1:9000",
                at("127.0.0.1:9000", "127.0.0.1", 9000),
            ),
            (
                "http://localhost:9000/",
                at("localhost:9000", "localhost", 9000),
            ),
            (
                "http://s3.example.com",
                at("s3.example.com", "s3.example.com", 80),
            ),
            ("http://[::1]:9000", at("[::1]:9000", "::1", 9000)),
        ] {
            assert_eq!(parsed(url).unwrap(), expected, "{url}");
        }
        for url in [
            "",
            "127.0.0.1:9000",
            "http://",
            "http://host:99999",
            "http://host:",
            "http://user@host",
            "http://host/path",
        ] {
            assert!(parsed(url).is_err(), "{url}");
        }
        let error = parsed("https://host").unwrap_err();
        assert!(error.to_string().contains("TLS"), "{error}");
    }

    #[test]
    fn answers_are_whole_or_none() {
        let head = "HTTP/1.1 403 Forbidden\r\nDate: now\r\ncontent-length: 4\r\n\r\n";
        let whole = format!("{head}body");
        let answer = Answer::parse(whole.as_bytes()).unwrap();
        assert_eq!((answer.status, answer.date), (403, Some("now")));
        assert_eq!(answer.body, b"body");
        for end in 0..whole.len() {
            assert_eq!(Answer::parse(&whole.as_bytes()[..end]), None, "{end}");
        }
        for none in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1\r\n\r\n",
            "HTTP/1.1 x\r\n\r\n",
        ] {
            assert_eq!(Answer::parse(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn elements_are_found_and_read() {
        let document = "<Error><Code>A</Code><Message>&lt;b&gt; &amp;lt;</Message></Error>";
        assert_eq!(element(document, "Code").as_deref(), Some("A"));
        assert_eq!(element(document, "Message").as_deref(), Some("<b> &lt;"));
        assert_eq!(element(document, "Region"), None);
    }
}
