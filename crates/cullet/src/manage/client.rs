//! One request to a server, signed, over a connection of its own: HTTP/1.1, as much as asking
//! for JSON needs.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, digest};
use bench::endpoint::{Endpoint, tls_failure};
use bench::sigv4::{Credentials, Unsigned, hex, sign};
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::admin::ADMIN;
use crate::limits::{ADMIN_ANSWER_BYTES_MAX, ADMIN_ANSWER_TIMEOUT, ADMIN_CONNECT_TIMEOUT};

/// A server, and who asks it.
pub(crate) struct Client {
    endpoint: Endpoint,
    credentials: Credentials,
}

/// What carries a request and its answer.
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Client {
    pub(crate) fn new(endpoint: Endpoint, region: &str, root: &s3::Credentials) -> Client {
        Client {
            endpoint,
            credentials: Credentials {
                access_key: root.access_key_id.clone(),
                secret_key: root.secret_access_key.to_string(),
                region: region.to_owned(),
            },
        }
    }

    /// Has an operation carried out.
    ///
    /// # Errors
    /// A sentence that says why it was not, and what to do.
    pub(crate) fn ask(&self, operation: &str, fields: &Value) -> anyhow::Result<Value> {
        let path = format!("{ADMIN}{operation}");
        let body = fields.to_string();
        let request = Unsigned {
            method: "POST",
            host: &self.endpoint.host,
            path: &path,
            query: &[],
            headers: &[],
            body_sha256: &hex(digest(&SHA256, body.as_bytes()).as_ref()),
        };
        let signed = sign(&request, &self.credentials);
        let mut head = format!(
            "POST {} HTTP/1.1\r\nconnection: close\r\ncontent-type: \
             application/json\r\ncontent-length: {}\r\n",
            signed.target,
            body.len()
        );
        for (name, value) in &signed.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let request = format!("{head}\r\n{body}");
        let answer = self.exchange(request.as_bytes())?;
        let answer = Answer::parse(&answer).with_context(|| {
            format!(
                "{} did not answer in HTTP, whole and plain: if it speaks TLS, write https://",
                self.endpoint.url
            )
        })?;
        self.understand(&answer)
    }

    fn connect(&self) -> anyhow::Result<TcpStream> {
        let url = &self.endpoint.url;
        let mut failure = None;
        for address in &self.endpoint.addresses {
            match TcpStream::connect_timeout(address, ADMIN_CONNECT_TIMEOUT) {
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

    /// A connection with its time limits, after the handshake where there is one.
    fn open(&self) -> anyhow::Result<Stream> {
        let url = &self.endpoint.url;
        let stream = self.connect()?;
        stream
            .set_read_timeout(Some(ADMIN_ANSWER_TIMEOUT))
            .and_then(|()| stream.set_write_timeout(Some(ADMIN_ANSWER_TIMEOUT)))
            .context("a time limit cannot be set")?;
        let Some(tls) = &self.endpoint.tls else {
            return Ok(Stream::Plain(stream));
        };
        let connection = ClientConnection::new(tls.config.clone(), tls.name.clone())?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            let done = stream.conn.complete_io(&mut stream.sock);
            done.map_err(|error| match tls_failure(&error) {
                Some(failure) => anyhow::anyhow!("no connection to {url}: {failure}"),
                None => anyhow::anyhow!("no connection to {url}: {error}"),
            })?;
        }
        Ok(Stream::Tls(Box::new(stream)))
    }

    fn exchange(&self, request: &[u8]) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let mut answer = Zeroizing::new(Vec::new());
        match self.open()? {
            Stream::Plain(stream) => self.exchange_over(stream, request, &mut answer)?,
            Stream::Tls(stream) => self.exchange_over(stream, request, &mut answer)?,
        }
        Ok(answer)
    }

    fn exchange_over(
        &self,
        mut stream: impl Read + Write,
        request: &[u8],
        answer: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let url = &self.endpoint.url;
        stream
            .write_all(request)
            .and_then(|()| stream.flush())
            .with_context(|| format!("{url} takes no request"))?;
        let limit = ADMIN_ANSWER_BYTES_MAX as u64 + 1;
        let broke_off =
            || format!("the answer of {url} broke off: whether it was done, a list tells");
        match stream.take(limit).read_to_end(answer) {
            // Over TLS, of whoever closes without a word. Whether it is whole, its length says.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Answer::parse(answer).with_context(broke_off)?;
            }
            read => drop(read.with_context(broke_off)?),
        }
        anyhow::ensure!(
            answer.len() <= ADMIN_ANSWER_BYTES_MAX,
            "{url} answers with more than a cullet server would"
        );
        Ok(())
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
        let (url, id) = (&self.endpoint.url, &self.credentials.access_key);
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
