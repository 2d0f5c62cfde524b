//! What server, helper and prepared processes say to each other: one message in one packet of a
//! local socket, with descriptors beside it.
//!
//! Integers are little-endian, strings end with NUL. Both ends are the same binary, so nothing here
//! is kept for other releases. The prepared process gets only a [`Launch`]'s strings, in the form
//! that [`strings`] writes: interpreters read it, too.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::limits::MESSAGE_BYTES_MAX;

/// Descriptors beside one message.
const FILES_MAX: usize = 4;

/// Sends a message; blocks while the other end has no room.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        let sent = rustix::net::sendmsg(
            &socket,
            &[IoSlice::new(bytes)],
            &mut beside,
            SendFlags::NOSIGNAL,
        );
        match sent {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Receives a message into `buffer`; blocks until there is one. 0 bytes: the other end is gone.
pub(crate) fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    files: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    loop {
        let received = rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(buffer)],
            &mut beside,
            RecvFlags::CMSG_CLOEXEC,
        );
        match received {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(received) => {
                for message in beside.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = message {
                        files.extend(fds);
                    }
                }
                return Ok(received.bytes);
            }
        }
    }
}

/// Writes a message.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn new(kind: u8) -> Writer {
        Writer(vec![kind])
    }

    pub(crate) fn number(mut self, number: u64) -> Writer {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    /// What is behind a NUL is left out.
    pub(crate) fn text(mut self, text: &str) -> Writer {
        let bytes = text.as_bytes();
        let end = bytes.iter().position(|byte| *byte == 0);
        self.0
            .extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
        self.0.push(0);
        self
    }

    pub(crate) fn texts(self, texts: &[String]) -> Writer {
        let counted = self.number(texts.len() as u64);
        texts.iter().fold(counted, |writer, text| writer.text(text))
    }
}

/// Reads a message; `None` where it is cut short.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*first))
    }

    pub(crate) fn size(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (text, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        String::from_utf8(text.to_vec()).ok()
    }

    pub(crate) fn texts(&mut self) -> Option<Vec<String>> {
        let count = self.size()?;
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(self.text()?);
        }
        Some(texts)
    }
}

/// What a prepared process is told when its turn has come:
///
/// ```text
/// u32 arguments | u32 variables | the arguments, then NAME=value, each ending with NUL
/// ```
/// The first argument is the program's path. `None`: it is too much.
pub(crate) fn strings(arguments: &[String], environment: &[(String, String)]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1_024);
    let count = |count: usize| u32::try_from(count).ok().map(u32::to_le_bytes);
    bytes.extend_from_slice(&count(arguments.len())?);
    bytes.extend_from_slice(&count(environment.len())?);
    let is_clean = |text: &str| !text.as_bytes().contains(&0);
    for argument in arguments {
        bytes.extend_from_slice(argument.as_bytes());
        bytes.push(0);
    }
    for (name, value) in environment {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(b'=');
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
    }
    let clean = arguments.iter().all(|text| is_clean(text))
        && environment.iter().all(|(n, v)| is_clean(n) && is_clean(v));
    let few = arguments.len() + environment.len() <= crate::limits::STRINGS_MAX;
    (clean && few && bytes.len() + 256 <= MESSAGE_BYTES_MAX).then_some(bytes)
}
