//! Computing digests of a body beside its write.
//!
//! MD5 is what limits one PUT stream, so that large bodies are hashed in batches on the
//! blocking pool while the next pieces arrive and earlier ones are written.

use bytes::Bytes;
use objects::ChecksumAlgorithm;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::Checksum;
use tokio::task::JoinHandle;

use crate::algorithms::{from_value, value_in};
use crate::limits::DIGEST_BATCH_BYTES;

/// The MD5 that becomes the ETag, and whatever checksums the client announced.
pub(crate) struct Digests {
    md5: Md5,
    checksums: ChecksumHasher,
}

/// The digests of a whole body.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    pub(crate) md5: [u8; 16],
    /// In base64, as headers carry them; only those that were asked for.
    pub(crate) checksums: Checksum,
}

impl Finished {
    /// A checksum that was asked for, as it is kept.
    pub(crate) fn checksum(&self, algorithm: ChecksumAlgorithm) -> Option<objects::Checksum> {
        from_value(algorithm, value_in(&self.checksums, algorithm)?)
    }
}

impl Digests {
    pub(crate) fn new(checksums: ChecksumHasher) -> Digests {
        Digests {
            md5: Md5::new(),
            checksums,
        }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        self.md5.update(data);
        self.checksums.update(data);
    }

    pub(crate) fn finish(self) -> Finished {
        Finished {
            md5: self.md5.finalize(),
            checksums: self.checksums.finalize(),
        }
    }
}

/// The hashing of one body.
pub(crate) struct DigestLane {
    /// `None` while a batch is being hashed elsewhere.
    idle: Option<Digests>,
    running: Option<JoinHandle<Digests>>,
    pending: Vec<Bytes>,
    pending_bytes: usize,
    inline: bool,
}

/// The thread that hashed is gone, which only a panic or the runtime's end can cause.
#[derive(Debug)]
pub(crate) struct LaneLost;

impl DigestLane {
    /// `inline`: the body is small enough to be hashed where it is.
    pub(crate) fn new(digests: Digests, inline: bool) -> DigestLane {
        DigestLane {
            idle: Some(digests),
            running: None,
            pending: Vec::new(),
            pending_bytes: 0,
            inline,
        }
    }

    /// Takes the next piece. Waits only if hashing is a whole batch behind.
    pub(crate) async fn feed(&mut self, piece: Bytes) -> Result<(), LaneLost> {
        if self.inline {
            self.idle.as_mut().ok_or(LaneLost)?.update(&piece);
            return Ok(());
        }
        self.pending_bytes += piece.len();
        self.pending.push(piece);
        if self.pending_bytes >= DIGEST_BATCH_BYTES {
            self.start().await?;
        }
        Ok(())
    }

    /// The digests of everything that was fed.
    pub(crate) async fn finish(mut self) -> Result<Finished, LaneLost> {
        if self.pending_bytes >= DIGEST_BATCH_BYTES / 4 {
            self.start().await?;
        }
        let mut digests = self.settle().await?;
        for piece in &self.pending {
            digests.update(piece);
        }
        Ok(digests.finish())
    }

    /// Sends what is pending to the blocking pool.
    async fn start(&mut self) -> Result<(), LaneLost> {
        let mut digests = self.settle().await?;
        let batch = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        self.running = Some(tokio::task::spawn_blocking(move || {
            for piece in &batch {
                digests.update(piece);
            }
            digests
        }));
        Ok(())
    }

    /// Waits for the batch that is being hashed.
    async fn settle(&mut self) -> Result<Digests, LaneLost> {
        match (self.idle.take(), self.running.take()) {
            (Some(digests), _) => Ok(digests),
            (None, Some(running)) => running.await.map_err(|_| LaneLost),
            (None, None) => Err(LaneLost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_lane_computes_what_one_pass_computes() {
        let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut whole = Digests::new(ChecksumHasher::default());
        whole.update(&body);
        let expected = whole.finish().md5;
        for (inline, piece_len) in [
            (true, 65_536),
            (false, 65_536),
            (false, 1_000),
            (false, 700_001),
        ] {
            let mut lane = DigestLane::new(Digests::new(ChecksumHasher::default()), inline);
            for piece in body.chunks(piece_len) {
                lane.feed(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            assert_eq!(
                lane.finish().await.unwrap().md5,
                expected,
                "{inline} {piece_len}"
            );
        }
    }

    #[tokio::test]
    async fn nothing_has_a_digest_too() {
        let lane = DigestLane::new(Digests::new(ChecksumHasher::default()), false);
        let etag = objects::ETag::from_md5(lane.finish().await.unwrap().md5);
        assert_eq!(etag.as_str(), "d41d8cd98f00b204e9800998ecf8427e");
    }
}
