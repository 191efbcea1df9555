//! The agent's side of a stream, made of two channels: what is urgent never stands behind data.

use std::pin::Pin;
use std::task::{Context, Poll};

use proto::wire::AgentMessage;
use tokio::sync::mpsc;
use tokio_stream::Stream;

/// The stream as tonic reads it: control first. Ends when control does, so a goodbye is the last message.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) control: mpsc::Receiver<AgentMessage>,
    pub(crate) data: mpsc::Receiver<AgentMessage>,
}

impl Stream for Outgoing {
    type Item = AgentMessage;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<AgentMessage>> {
        match self.control.poll_recv(context) {
            Poll::Ready(message) => Poll::Ready(message),
            Poll::Pending => match self.data.poll_recv(context) {
                Poll::Ready(Some(message)) => Poll::Ready(Some(message)),
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            },
        }
    }
}
