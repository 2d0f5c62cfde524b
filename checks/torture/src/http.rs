//! A blocking HTTP/1.1 client over one kept-alive connection: as much as S3 needs.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Bytes that were received and not used yet: `buffer[start..]`.
    buffer: Vec<u8>,
    start: usize,
}

/// What a server answered.
#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the connection can carry another request.
    pub keep_alive: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The content of the first XML element of that name in the body.
    pub fn element(&self, name: &str) -> Option<String> {
        elements(&String::from_utf8_lossy(&self.body), name)
            .next()
            .map(unescaped)
    }
}

/// The contents of all XML elements of that name that have no attributes.
pub fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&open)?;
        let (content, behind) = after.split_once(&close)?;
        rest = behind;
        Some(content)
    })
}

/// XML's five entities and the numeric form of a quote, as servers write them.
pub fn unescaped(text: &str) -> String {
    text.replace("&quot;", "\"")
        .replace("&#34;", "\"")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

impl Connection {
    pub fn open(address: &str, timeout: Duration) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Connection {
            stream,
            buffer: Vec::with_capacity(64 * 1024),
            start: 0,
        })
    }

    pub fn send(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        match parts {
            // Small requests leave in one segment.
            [head, body] if head.len() + body.len() <= 16 * 1024 => {
                self.stream.write_all(&[*head, *body].concat())
            }
            _ => parts
                .iter()
                .try_for_each(|part| self.stream.write_all(part)),
        }
    }

    /// Reads one answer; `head_only` when the request was a HEAD.
    pub fn receive(&mut self, head_only: bool) -> io::Result<Answer> {
        let mut answer = Answer::default();
        let head = self.take_head()?;
        let text = std::str::from_utf8(&head).map_err(|_| malformed("the head is not UTF-8"))?;
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        answer.status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| malformed(&format!("not a status line: {status_line:?}")))?;
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| malformed("a header without a colon"))?;
            answer
                .headers
                .push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        answer.keep_alive = answer.header("connection") != Some("close");
        if head_only || answer.status == 204 || answer.status == 304 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = self.take_chunks()?;
        } else {
            let length = answer
                .header("content-length")
                .and_then(|value| value.parse().ok());
            let length = length.ok_or_else(|| malformed("neither a length nor chunks"))?;
            answer.body = self.take(length)?;
        }
        Ok(answer)
    }

    fn take_head(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let unread = &self.buffer[self.start..];
            if let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = unread[..end].to_vec();
                self.consume(end + 4);
                return Ok(head);
            }
            if unread.len() > 64 * 1024 {
                return Err(malformed("a head of more than 64 KiB"));
            }
            self.fill()?;
        }
    }

    fn take_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.take_line()?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size =
                usize::from_str_radix(digits, 16).map_err(|_| malformed("a bad chunk size"))?;
            if size == 0 {
                while !self.take_line()?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size)?);
            if !self.take_line()?.is_empty() {
                return Err(malformed("a chunk that is longer than its size"));
            }
        }
    }

    fn take_line(&mut self) -> io::Result<String> {
        loop {
            let unread = &self.buffer[self.start..];
            if let Some(end) = unread.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&unread[..end]).into_owned();
                self.consume(end + 2);
                return Ok(line);
            }
            self.fill()?;
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let here = length.min(self.buffer.len() - self.start);
        let mut bytes = self.buffer[self.start..self.start + here].to_vec();
        self.consume(here);
        if here < length {
            bytes.resize(length, 0);
            self.stream.read_exact(&mut bytes[here..])?;
        }
        Ok(bytes)
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        let count = self.stream.read(&mut chunk)?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            ));
        }
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(())
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("not a proper HTTP answer: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answer_to(bytes: &'static [u8]) -> io::Result<Vec<Answer>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            for piece in bytes.chunks(5) {
                stream.write_all(piece).expect("a listening client");
            }
        });
        let mut connection = Connection::open(&address, Duration::from_secs(5))?;
        Ok(vec![connection.receive(false)?, connection.receive(false)?])
    }

    #[test]
    fn reads_lengths_and_chunks_from_one_connection() {
        let answers = answer_to(
            b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;a=b\r\nde\r\n0\r\n\r\n\
              HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\n<a/>",
        )
        .expect("two answers");
        assert_eq!(
            (answers[0].status, answers[0].body.as_slice()),
            (200, b"abcde".as_slice())
        );
        assert_eq!(answers[0].header("etag"), Some("\"x\""));
        assert!(answers[0].keep_alive);
        assert_eq!(
            (answers[1].status, answers[1].body.as_slice()),
            (404, b"<a/>".as_slice())
        );
        assert!(!answers[1].keep_alive);
    }

    #[test]
    fn elements_are_found_in_order() {
        let xml = "<a><Key>x&amp;y</Key><Size>3</Size></a><a><Key>z</Key></a>";
        let keys: Vec<String> = elements(xml, "Key").map(unescaped).collect();
        assert_eq!(keys, ["x&y", "z"]);
    }
}
