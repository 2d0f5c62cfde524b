//! An HTTP/1.1 client over one connection: a prepared request out, an answer in. Written by
//! hand because a load generator shares the machine with what it measures: no request and no
//! answer allocates or is copied here, and a small exchange costs one write and one read.
//!
//! What must hold:
//! - An answer's body is read to its declared end and no further; what does not declare an end
//!   ends with the connection, which is then not used again.
//! - Whatever a server sends is bounded: the head by [`READ_BUFFER_BYTES`], a body by its
//!   receiver.

use std::io::{self, IoSlice};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::endpoint::Endpoint;
use crate::limits::{HEADERS_MAX, READ_BUFFER_BYTES};

/// Why there was no answer.
#[derive(Debug)]
pub(crate) enum HttpError {
    /// The server closed the connection before the first byte of an answer, as servers do
    /// with connections that were idle or are used up.
    ClosedBefore,
    /// It closed the connection within an answer.
    ClosedWithin,
    /// What came is not HTTP.
    Malformed(&'static str),
    /// The connection failed.
    Io(io::Error),
}

impl From<io::Error> for HttpError {
    fn from(error: io::Error) -> HttpError {
        HttpError::Io(error)
    }
}

/// The head of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) status: u16,
    framing: Framing,
    keep_alive: bool,
    /// The server's clock, in seconds since 1970, where the answer says no.
    pub(crate) date: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// Where the bytes of a request's body come from: a block that repeats.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload<'a> {
    pub(crate) block: &'a [u8],
    /// The part of the body that is still to be sent; what is before went with the head.
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl<'a> Payload<'a> {
    pub(crate) const NONE: Payload<'static> = Payload {
        block: &[],
        from: 0,
        until: 0,
    };

    /// The next bytes; empty at the end.
    fn piece(&self) -> &'a [u8] {
        let left = self.until - self.from;
        if left == 0 {
            return &[];
        }
        let offset = (self.from % self.block.len() as u64) as usize;
        let piece = &self.block[offset..];
        &piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))]
    }
}

/// What carries the bytes.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    async fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write_vectored(parts).await,
            Stream::Tls(stream) => stream.write_vectored(parts).await,
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        match self {
            // What was written is the kernel's.
            Stream::Plain(_) => Ok(()),
            Stream::Tls(stream) => stream.flush().await,
        }
    }

    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer).await,
            Stream::Tls(stream) => stream.read(buffer).await,
        }
    }
}

/// One connection. After an error it must not be used again.
pub(crate) struct Connection {
    stream: Stream,
    /// Received and not used yet: `buffer[start..end]`.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Connection {
    pub(crate) async fn open(endpoint: &Endpoint) -> io::Result<Connection> {
        let stream = TcpStream::connect(&endpoint.addresses[..]).await?;
        stream.set_nodelay(true)?;
        let stream = match &endpoint.tls {
            None => Stream::Plain(stream),
            Some(tls) => {
                let connector = TlsConnector::from(tls.config.clone());
                Stream::Tls(Box::new(connector.connect(tls.name.clone(), stream).await?))
            }
        };
        Ok(Connection {
            stream,
            buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
        })
    }

    /// Sends a request: its head, and its body in as few pieces as the kernel takes.
    pub(crate) async fn send(&mut self, head: &[u8], mut payload: Payload<'_>) -> io::Result<()> {
        let mut head = head;
        loop {
            let piece = payload.piece();
            if head.is_empty() && piece.is_empty() {
                return self.stream.flush().await;
            }
            let parts = [IoSlice::new(head), IoSlice::new(piece)];
            let count = self.stream.write_vectored(&parts).await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let of_head = count.min(head.len());
            head = &head[of_head..];
            payload.from += (count - of_head) as u64;
        }
    }

    /// The head of the next answer; informational ones are passed over.
    pub(crate) async fn head(&mut self) -> Result<Head, HttpError> {
        loop {
            if let Some((head, length)) = parse_head(&self.buffer[self.start..self.end])? {
                self.start += length;
                if head.status >= 200 {
                    return Ok(head);
                }
                continue;
            }
            let begun = self.start < self.end;
            self.fill().await.map_err(|error| match error {
                HttpError::ClosedWithin if !begun => HttpError::ClosedBefore,
                other => other,
            })?;
        }
    }

    /// Reads the body that belongs to `head`, piece by piece. Returns its length in bytes.
    pub(crate) async fn body(
        &mut self,
        head: &Head,
        mut receive: impl FnMut(&[u8]) + Send,
    ) -> Result<u64, HttpError> {
        match head.framing {
            Framing::Length(length) => self.exactly(length, &mut receive).await,
            Framing::Chunked => self.chunks(&mut receive).await,
            Framing::UntilClose => self.until_close(&mut receive).await,
        }
    }

    /// Whether another request may be sent after the answer with this head.
    pub(crate) fn reusable(&self, head: &Head) -> bool {
        head.keep_alive && head.framing != Framing::UntilClose && self.start == self.end
    }

    async fn exactly(
        &mut self,
        length: u64,
        receive: &mut (impl FnMut(&[u8]) + Send),
    ) -> Result<u64, HttpError> {
        let mut left = length;
        while left > 0 {
            if self.start == self.end {
                self.fill().await?;
            }
            let here = (self.end - self.start) as u64;
            let count = here.min(left) as usize;
            receive(&self.buffer[self.start..self.start + count]);
            self.start += count;
            left -= count as u64;
        }
        Ok(length)
    }

    async fn chunks(&mut self, receive: &mut (impl FnMut(&[u8]) + Send)) -> Result<u64, HttpError> {
        let mut total = 0_u64;
        loop {
            let (start, end) = self.line().await?;
            let size = chunk_size(&self.buffer[start..end])?;
            if size == 0 {
                // Trailers, until an empty line.
                loop {
                    let (start, end) = self.line().await?;
                    if start == end {
                        return Ok(total);
                    }
                }
            }
            total = total
                .checked_add(self.exactly(size, receive).await?)
                .ok_or(HttpError::Malformed("chunks without end"))?;
            let (start, end) = self.line().await?;
            if start != end {
                return Err(HttpError::Malformed("a chunk that is longer than its size"));
            }
        }
    }

    async fn until_close(
        &mut self,
        receive: &mut (impl FnMut(&[u8]) + Send),
    ) -> Result<u64, HttpError> {
        let mut total = 0;
        loop {
            receive(&self.buffer[self.start..self.end]);
            total += (self.end - self.start) as u64;
            self.start = self.end;
            match self.fill().await {
                Ok(()) => {}
                Err(HttpError::ClosedWithin) => return Ok(total),
                Err(error) => return Err(error),
            }
        }
    }

    /// Where the next line stands in the buffer, without its end.
    async fn line(&mut self) -> Result<(usize, usize), HttpError> {
        loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(length) = memchr::memmem::find(unread, b"\r\n") {
                let start = self.start;
                self.start += length + 2;
                return Ok((start, start + length));
            }
            self.fill().await?;
        }
    }

    /// Reads more behind what is in the buffer.
    async fn fill(&mut self) -> Result<(), HttpError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            if self.start == 0 {
                return Err(HttpError::Malformed("a head or a line of more than 64 KiB"));
            }
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        match self.stream.read(&mut self.buffer[self.end..]).await? {
            0 => Err(HttpError::ClosedWithin),
            count => {
                self.end += count;
                Ok(())
            }
        }
    }
}

/// The head and its length in bytes, or `None` if more has to come.
fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, HttpError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let length = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(HttpError::Malformed("a bad head")),
    };
    let status = answer.code.unwrap_or_default();
    let bodiless = status < 200 || status == 204 || status == 304;
    let mut head = Head {
        status,
        framing: if bodiless {
            Framing::Length(0)
        } else {
            Framing::UntilClose
        },
        keep_alive: answer.version == Some(1),
        date: None,
    };
    for header in answer.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") && !bodiless && head.framing != Framing::Chunked {
            head.framing = Framing::Length(decimal(header.value)?);
        } else if is("transfer-encoding") && !bodiless {
            head.framing = Framing::Chunked;
        } else if is("connection") {
            head.keep_alive = !header.value.eq_ignore_ascii_case(b"close");
        } else if status >= 400 && is("date") {
            head.date = std::str::from_utf8(header.value).ok().and_then(http_date);
        }
    }
    Ok(Some((head, length)))
}

fn decimal(digits: &[u8]) -> Result<u64, HttpError> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or(HttpError::Malformed("a bad content-length"))
}

fn chunk_size(line: &[u8]) -> Result<u64, HttpError> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    std::str::from_utf8(digits)
        .ok()
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .ok_or(HttpError::Malformed("a bad chunk size"))
}

/// Seconds since 1970 of `Wed, 25 Nov 2026 04:35:08 GMT`.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut words = text.split(' ').skip(1);
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|known| *known == month)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':');
    let mut part = || clock.next()?.parse::<u64>().ok();
    let (hour, minute, second) = (part()?, part()?, part()?);
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    // Howard Hinnant's `days_from_civil`.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    /// Status, body, and whether the connection stays.
    type Whole = (u16, Vec<u8>, bool);

    /// What two answers come to that arrive in small pieces on one connection.
    fn answers_to(bytes: &'static [u8]) -> Vec<Result<Whole, HttpError>> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            for piece in bytes.chunks(5) {
                stream.write_all(piece).expect("a listening client");
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let endpoint = Endpoint {
                url: String::new(),
                host: String::new(),
                addresses: vec![address],
                tls: None,
            };
            let opened = Connection::open(&endpoint).await;
            let mut connection = opened.expect("a connection");
            let mut answers = Vec::new();
            for _ in 0..2 {
                let mut body = Vec::new();
                let answer = async {
                    let head = connection.head().await?;
                    connection
                        .body(&head, |piece| body.extend_from_slice(piece))
                        .await?;
                    Ok((head.status, head.keep_alive))
                };
                let answer = answer.await;
                answers.push(answer.map(|(status, keep)| (status, body, keep)));
            }
            answers
        })
    }

    #[test]
    fn lengths_and_chunks_are_read_from_one_connection() {
        let answers = answers_to(
            b"HTTP/1.1 100 Continue\r\n\r\n\
              HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;a=b\r\nde\r\n0\r\nx: y\r\n\r\n\
              HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\n<a/>",
        );
        let answers: Vec<_> = answers.into_iter().map(|one| one.expect("whole")).collect();
        assert_eq!(answers[0], (200, b"abcde".to_vec(), true));
        assert_eq!(answers[1], (404, b"<a/>".to_vec(), false));
    }

    #[test]
    fn ends_within_and_before_answers_are_told_apart() {
        let answers = answers_to(b"HTTP/1.1 204 No Content\r\n\r\n");
        assert!(matches!(answers[0], Ok((204, _, true))));
        assert!(matches!(answers[1], Err(HttpError::ClosedBefore)));
        let answers = answers_to(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
        assert!(matches!(answers[0], Err(HttpError::ClosedWithin)));
        let answers = answers_to(b"HTTP/1.0 200 OK\r\n\r\nabc");
        assert!(matches!(&answers[0], Ok((200, body, false)) if body == b"abc"));
        let answers = answers_to(b"SSH-2.0-OpenSSH\r\n");
        assert!(matches!(answers[0], Err(HttpError::Malformed(_))));
    }

    #[test]
    fn payloads_repeat_their_block() {
        let mut payload = Payload {
            block: b"0123456789",
            from: 4,
            until: 23,
        };
        let mut sent = Vec::new();
        while !payload.piece().is_empty() {
            sent.extend_from_slice(payload.piece());
            payload.from += payload.piece().len() as u64;
        }
        assert_eq!(sent, b"4567890123456789012");
    }

    #[test]
    fn dates_are_read() {
        assert_eq!(
            http_date("Fri, 24 May 2013 00:00:00 GMT"),
            Some(1_369_353_600)
        );
        assert_eq!(
            http_date("Tue, 29 Feb 2000 12:00:01 GMT"),
            Some(951_825_601)
        );
        assert_eq!(http_date("yesterday"), None);
    }
}
