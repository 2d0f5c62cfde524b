//! Taking turns with others on the same thread.
//!
//! A walk over many deleted keys answers each of its parts at once while they are in memory, so
//! that nothing would ever make it wait. Between its parts it lets others go first, and whoever
//! does not want it any more can drop it.

use std::task::Poll;

/// Lets whatever else is ready on this thread go first. Works with every runtime.
pub(crate) async fn let_others_go_first() {
    let mut waited = false;
    std::future::poll_fn(|context| {
        if waited {
            return Poll::Ready(());
        }
        waited = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
