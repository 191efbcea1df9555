//! Memory for agents' data on its way to the bus: what waits over all streams, and whether there is room for more.

use std::sync::Arc;

use tokio::sync::watch;

/// Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    waiting: Arc<watch::Sender<usize>>,
    bytes_max: usize,
}

/// Bytes that wait, until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    room: Room,
    bytes: usize,
}

impl Room {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { waiting: Arc::default(), bytes_max }
    }

    /// Room for one batch; `None` when there is none.
    pub(crate) fn take(&self, bytes: usize) -> Option<Place> {
        let mut taken = false;
        // Nobody waits for there to be less room.
        self.waiting.send_if_modified(|waiting| {
            taken = *waiting + bytes <= self.bytes_max;
            *waiting += if taken { bytes } else { 0 };
            false
        });
        taken.then(|| Place { room: self.clone(), bytes })
    }

    /// Whether streams that begin now should send no data.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short_with(*self.waiting.borrow())
    }

    /// Waits until there is room for streams again. Cancel safe: yes.
    pub(crate) async fn eased(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender is in `self`.
        waiting.wait_for(|waiting| !self.is_short_with(*waiting)).await.ok();
    }

    fn is_short_with(&self, waiting: usize) -> bool {
        waiting > self.bytes_max / 2
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (room, bytes) = (&self.room, self.bytes);
        room.waiting.send_if_modified(|waiting| {
            let was_short = room.is_short_with(*waiting);
            *waiting -= bytes;
            was_short && !room.is_short_with(*waiting)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_leaves_its_room_to_others() {
        let room = Room::new(100);
        let half = room.take(50).unwrap();
        assert!(!room.is_short());
        let more = room.take(50).unwrap();
        assert!(room.is_short() && room.take(1).is_none());
        let mut eased = Box::pin(room.eased());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(eased.as_mut().poll(&mut context).is_pending());
        drop(half);
        assert!(eased.as_mut().poll(&mut context).is_ready());
        drop(more);
        assert!(room.take(100).is_some());
    }
}
