//! Whether a client keeps up.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Measures one direction of one client. Only the time in which the client is waited for
/// counts, not the time in which the server is busy.
#[derive(Debug)]
pub struct Pace {
    window: Duration,
    bytes_min: u64,
    timer: Option<Pin<Box<Sleep>>>,
    waiting_since: Option<Instant>,
    /// Time waited in this window.
    waited: Duration,
    /// Bytes that moved in this window.
    bytes: u64,
}

impl Pace {
    /// A client must move `bytes_min` in every `window` of waiting.
    pub fn new(window: Duration, bytes_min: u64) -> Pace {
        Pace {
            window,
            bytes_min,
            timer: None,
            waiting_since: None,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// The client moved some bytes.
    pub fn progress(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
    }

    /// To be called while the client is waited for. Ready when a whole window of waiting
    /// passed with less than there must be.
    pub fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting_since.is_none() {
            let now = Instant::now();
            self.waiting_since = Some(now);
            let end = now + self.window.saturating_sub(self.waited);
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(end),
                None => self.timer = Some(Box::pin(sleep_until(end))),
            }
        }
        let Some(timer) = &mut self.timer else {
            return Poll::Pending;
        };
        loop {
            ready!(timer.as_mut().poll(cx));
            if self.bytes < self.bytes_min {
                return Poll::Ready(());
            }
            let now = Instant::now();
            (self.bytes, self.waited, self.waiting_since) = (0, Duration::ZERO, Some(now));
            timer.as_mut().reset(now + self.window);
        }
    }
}
