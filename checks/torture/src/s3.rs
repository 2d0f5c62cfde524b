//! The few S3 requests that the torture and the figures send.

use std::io;
use std::time::Duration;

use bench::sigv4::{Credentials, Unsigned, hex, sign};
use sha2::{Digest, Sha256};

use crate::http::{Answer, Connection, elements, unescaped};

/// One client with one connection, opened when needed and again after it broke.
#[derive(Debug)]
pub struct Client {
    address: String,
    credentials: Credentials,
    connection: Option<Connection>,
    timeout: Duration,
}

/// One object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub size: u64,
    pub etag: String,
}

/// A whole listing, all its pages.
#[derive(Debug, Default)]
pub struct Listing {
    pub objects: Vec<Listed>,
    pub common_prefixes: Vec<String>,
}

/// What an operation came to.
#[derive(Debug)]
pub enum Failure {
    /// No answer: the operation may have happened or not.
    Broken(io::Error),
    /// An answer that says no.
    Refused {
        status: u16,
        code: String,
        message: String,
    },
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Broken(error)
    }
}

/// A request line and headers as bytes, ready for a connection.
pub fn head(
    credentials: &Credentials,
    host: &str,
    method: &str,
    path: &str,
    query: &[(&str, &str)],
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let body_sha256 = hex(&Sha256::digest(body));
    head_of(
        credentials,
        host,
        method,
        path,
        query,
        headers,
        body.len(),
        &body_sha256,
    )
}

#[allow(
    clippy::too_many_arguments,
    reason = "one flat list of what stands in a request"
)]
fn head_of(
    credentials: &Credentials,
    host: &str,
    method: &str,
    path: &str,
    query: &[(&str, &str)],
    headers: &[(&str, &str)],
    length: usize,
    body_sha256: &str,
) -> Vec<u8> {
    let signed = sign(
        &Unsigned {
            method,
            host,
            path,
            query,
            headers,
            body_sha256,
        },
        credentials,
    );
    let mut text = format!("{method} {} HTTP/1.1\r\n", signed.target);
    for (name, value) in &signed.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if length > 0 || matches!(method, "PUT" | "POST") {
        text.push_str(&format!("content-length: {length}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

impl Client {
    pub fn new(address: &str, credentials: &Credentials, timeout: Duration) -> Client {
        Client {
            address: address.to_owned(),
            credentials: credentials.clone(),
            connection: None,
            timeout,
        }
    }

    /// Sends one signed request; any status is an answer.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let head = head(
            &self.credentials,
            &self.address,
            method,
            path,
            query,
            headers,
            body,
        );
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.address, self.timeout)?,
        };
        connection.send(&[&head, body])?;
        let answer = connection.receive(method == "HEAD")?;
        if answer.keep_alive {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    fn expect(&mut self, answer: Answer) -> Result<Answer, Failure> {
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        Err(Failure::Refused {
            status: answer.status,
            code: answer.element("Code").unwrap_or_default(),
            message: answer.element("Message").unwrap_or_default(),
        })
    }

    pub fn create_bucket(&mut self, bucket: &str) -> Result<(), Failure> {
        let answer = self.request("PUT", &format!("/{bucket}"), &[], &[], b"")?;
        self.expect(answer).map(|_| ())
    }

    /// Returns the ETag without its quotes.
    pub fn put(
        &mut self,
        bucket: &str,
        key: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<String, Failure> {
        let answer = self.request("PUT", &format!("/{bucket}/{key}"), &[], headers, body)?;
        let answer = self.expect(answer)?;
        Ok(answer
            .header("etag")
            .unwrap_or_default()
            .trim_matches('"')
            .to_owned())
    }

    /// Announces the whole body, sends the first `sent` bytes of it, and hangs up.
    pub fn put_half(
        &mut self,
        bucket: &str,
        key: &str,
        operation: &str,
        body: &[u8],
        sent: usize,
    ) -> io::Result<()> {
        let headers = [("x-amz-meta-op", operation)];
        let path = format!("/{bucket}/{key}");
        let sha256 = "UNSIGNED-PAYLOAD";
        let head = head_of(
            &self.credentials,
            &self.address,
            "PUT",
            &path,
            &[],
            &headers,
            body.len(),
            sha256,
        );
        let mut connection = Connection::open(&self.address, self.timeout)?;
        connection.send(&[&head, &body[..sent]])
    }

    /// `None` when there is no such key.
    pub fn get(
        &mut self,
        bucket: &str,
        key: &str,
        range: Option<&str>,
    ) -> Result<Option<Answer>, Failure> {
        let headers: Vec<(&str, &str)> = range.map(|range| ("range", range)).into_iter().collect();
        let answer = self.request("GET", &format!("/{bucket}/{key}"), &[], &headers, b"")?;
        match self.expect(answer) {
            Ok(answer) => Ok(Some(answer)),
            Err(Failure::Refused {
                status: 404, code, ..
            }) if code == "NoSuchKey" => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    pub fn delete(&mut self, bucket: &str, key: &str) -> Result<(), Failure> {
        let answer = self.request("DELETE", &format!("/{bucket}/{key}"), &[], &[], b"")?;
        self.expect(answer).map(|_| ())
    }

    /// All pages of a ListObjectsV2.
    pub fn list(
        &mut self,
        bucket: &str,
        prefix: &str,
        delimiter: &str,
        page: u32,
    ) -> Result<Listing, Failure> {
        let mut listing = Listing::default();
        let mut token = String::new();
        let page = page.to_string();
        loop {
            let mut query = vec![
                ("list-type", "2"),
                ("max-keys", page.as_str()),
                ("prefix", prefix),
            ];
            if !delimiter.is_empty() {
                query.push(("delimiter", delimiter));
            }
            if !token.is_empty() {
                query.push(("continuation-token", &token));
            }
            let answer = self.request("GET", &format!("/{bucket}"), &query, &[], b"")?;
            let answer = self.expect(answer)?;
            read_page(&String::from_utf8_lossy(&answer.body), &mut listing);
            match answer.element("NextContinuationToken") {
                Some(next) if answer.element("IsTruncated").as_deref() == Some("true") => {
                    token = next
                }
                _ => return Ok(listing),
            }
        }
    }
}

fn read_page(xml: &str, listing: &mut Listing) {
    let field = |entry: &str, name: &str| {
        elements(entry, name)
            .next()
            .map(unescaped)
            .unwrap_or_default()
    };
    for entry in elements(xml, "Contents") {
        listing.objects.push(Listed {
            key: field(entry, "Key"),
            size: field(entry, "Size").parse().unwrap_or(u64::MAX),
            etag: field(entry, "ETag").trim_matches('"').to_owned(),
        });
    }
    for entry in elements(xml, "CommonPrefixes") {
        listing.common_prefixes.push(field(entry, "Prefix"));
    }
}
