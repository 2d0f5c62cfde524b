//! One request and its answer, checked, over a connection that is opened again when needed.

use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::Endpoint;
use crate::http::{Connection, Head, HttpError, Payload};
use crate::limits::{CONNECT_PAUSE, PAGE_BYTES_MAX, REFUSAL_BYTES_MAX};
use crate::s3::body::Body;
use crate::s3::failure::{Failure, Refusal};

/// What the body of an answer must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expected<'a> {
    /// Whatever it is; it is thrown away.
    Anything,
    /// Of this many bytes.
    Length(u64),
    /// The body of this object, byte for byte.
    Object(&'a Body, u64),
    /// A document, which is kept.
    Document,
}

/// A slot's connection and its buffers.
pub(crate) struct Exchange {
    endpoint: Arc<Endpoint>,
    timeout: Duration,
    connection: Option<Connection>,
    /// The request that is sent next: its head, and where there is a body its beginning.
    pub(crate) request: Vec<u8>,
    /// The last document or refusal that came.
    pub(crate) document: Vec<u8>,
}

impl Exchange {
    pub(crate) fn new(endpoint: Arc<Endpoint>, timeout: Duration) -> Exchange {
        Exchange {
            endpoint,
            timeout,
            connection: None,
            request: Vec::with_capacity(1024),
            document: Vec::new(),
        }
    }

    /// Opens the connection, if that is possible; otherwise the first request says why not.
    pub(crate) async fn open(&mut self) {
        let opened = tokio::time::timeout(self.timeout, Connection::open(&self.endpoint)).await;
        self.connection = opened.ok().and_then(Result::ok);
    }

    /// Sends what stands in `request` and the payload, and reads the whole answer. Returns the
    /// length of its body in bytes.
    pub(crate) async fn carry(
        &mut self,
        payload: Payload<'_>,
        expected: Expected<'_>,
    ) -> Result<u64, Failure> {
        let timeout = self.timeout;
        match tokio::time::timeout(timeout, self.attempts(payload, expected)).await {
            Ok(result) => result,
            // The connection is gone with the future that held it.
            Err(_) => Err(Failure::TimedOut),
        }
    }

    async fn attempts(
        &mut self,
        payload: Payload<'_>,
        expected: Expected<'_>,
    ) -> Result<u64, Failure> {
        if let Some(connection) = self.connection.take() {
            match self.attempt(connection, payload, expected).await {
                // Servers close connections that were idle, or that served so many requests,
                // and may do so while the next request is on its way: it goes over a new one.
                Err(Attempt::ClosedBefore) => {}
                Err(Attempt::Failed(failure)) => return Err(failure),
                Ok(length) => return Ok(length),
            }
        }
        let connection = match Connection::open(&self.endpoint).await {
            Ok(connection) => connection,
            Err(error) => {
                tokio::time::sleep(CONNECT_PAUSE).await;
                return Err(Failure::Connect(error));
            }
        };
        match self.attempt(connection, payload, expected).await {
            Ok(length) => Ok(length),
            Err(Attempt::ClosedBefore) => Err(Failure::Closed),
            Err(Attempt::Failed(failure)) => Err(failure),
        }
    }

    async fn attempt(
        &mut self,
        mut connection: Connection,
        payload: Payload<'_>,
        expected: Expected<'_>,
    ) -> Result<u64, Attempt> {
        let sent = connection.send(&self.request, payload).await;
        // A server may refuse a request before it has read all of it: then that is the reason.
        let head = match (connection.head().await, sent) {
            (Ok(head), Ok(())) => head,
            (Ok(head), Err(_)) if head.status >= 300 => head,
            (_, Err(error)) if is_closed(&error) => return Err(Attempt::ClosedBefore),
            (_, Err(error)) => return Err(Attempt::Failed(Failure::Broken(error))),
            (Err(HttpError::ClosedBefore), Ok(())) => return Err(Attempt::ClosedBefore),
            (Err(HttpError::Io(error)), Ok(())) if is_closed(&error) => {
                return Err(Attempt::ClosedBefore);
            }
            (Err(error), Ok(())) => return Err(Attempt::Failed(error.into())),
        };
        let result = self.answer(&mut connection, &head, expected).await;
        let whole = !matches!(
            result,
            Err(Failure::Closed | Failure::Broken(_) | Failure::Malformed(_))
        );
        if whole && connection.reusable(&head) {
            self.connection = Some(connection);
        }
        result.map_err(Attempt::Failed)
    }

    async fn answer(
        &mut self,
        connection: &mut Connection,
        head: &Head,
        expected: Expected<'_>,
    ) -> Result<u64, Failure> {
        if !(200..300).contains(&head.status) {
            self.keep(connection, head, REFUSAL_BYTES_MAX).await?;
            let refusal = Refusal::new(head.status, &self.document, head.date);
            return Err(Failure::Refused(refusal));
        }
        let length = match expected {
            Expected::Anything => return Ok(connection.body(head, |_| ()).await?),
            Expected::Document => return self.keep(connection, head, PAGE_BYTES_MAX).await,
            Expected::Length(length) => length,
            Expected::Object(body, _) => body.size(),
        };
        let mut same = true;
        let mut position = 0;
        let got = connection
            .body(head, |bytes| {
                if let Expected::Object(body, number) = expected {
                    same = same && body.matches(number, position, bytes);
                    position += bytes.len() as u64;
                }
            })
            .await?;
        if got != length {
            return Err(Failure::Length {
                got,
                expected: length,
            });
        }
        if same {
            Ok(length)
        } else {
            Err(Failure::Bytes)
        }
    }

    /// Keeps a body in `document`, up to so many bytes.
    async fn keep(
        &mut self,
        connection: &mut Connection,
        head: &Head,
        bytes_max: usize,
    ) -> Result<u64, Failure> {
        let document = &mut self.document;
        document.clear();
        let length = connection
            .body(head, |bytes| {
                let room = bytes_max - document.len();
                document.extend_from_slice(&bytes[..bytes.len().min(room)]);
            })
            .await?;
        Ok(length)
    }
}

enum Attempt {
    ClosedBefore,
    Failed(Failure),
}

fn is_closed(error: &std::io::Error) -> bool {
    // The last one over TLS, of whoever closes without a word.
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}
