//! Waits to the microsecond. The runtime's own timers tick in milliseconds, which would stand
//! in every latency of an open loop.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// One timer of the kernel; one wait at a time.
pub(crate) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// Within a runtime.
    #[allow(
        deprecated,
        reason = "what replaces it is unsafe, for descriptors that may change or close while \
                  they are registered; an `OwnedFd` does neither"
    )]
    pub(crate) fn new() -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Timer(AsyncFd::new(descriptor)?))
    }

    pub(crate) async fn wait(&self, duration: Duration) -> io::Result<()> {
        if duration.is_zero() {
            return Ok(());
        }
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let once = Itimerspec {
            it_interval: zero,
            it_value: Timespec {
                tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: duration.subsec_nanos().into(),
            },
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let mut expirations = [0; 8];
            let read = ready.try_io(|descriptor| {
                rustix::io::read(descriptor.get_ref(), &mut expirations).map_err(io::Error::from)
            });
            // Not ready after all: wait again.
            if let Ok(read) = read {
                return read.map(drop);
            }
        }
    }
}
