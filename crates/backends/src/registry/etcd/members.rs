//! The members of one etcd cluster: asks the one that answered last, passes over one that does not, and signs in.
//!
//! tonic's own balancing is not used: it keeps offering members that are down, and would spread what one caller asks in
//! turn over members of which some lag behind.

use std::error::Error;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Request, Status};

use super::options::{Credentials, Options, OptionsError};
use super::wire::pb;
use super::wire::pb::auth_client::AuthClient;

/// What may be done with a call whose fate is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Asking twice does no harm.
    Freely,
    /// Only when it surely was never sent.
    IfUnsent,
}

/// How this process is known to etcd.
#[derive(Clone, Debug, PartialEq)]
enum Identity {
    Unknown,
    /// etcd's authentication is off.
    Nobody,
    Token(MetadataValue<Ascii>),
}

#[derive(Debug)]
pub(super) struct Members {
    channels: Vec<Channel>,
    current: AtomicUsize,
    call_timeout: Duration,
    credentials: Option<Credentials>,
    identity: Mutex<Identity>,
}

/// One member to ask, and who asks.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Member {
    pub(super) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        // A member that is cut off from the others then says so at once; without this it answers never.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

impl Members {
    pub(super) fn new(options: &Options) -> Result<Self, OptionsError> {
        Ok(Self {
            channels: options.channels()?,
            current: AtomicUsize::new(0),
            call_timeout: options.call_timeout,
            credentials: options.credentials.clone(),
            identity: Mutex::new(Identity::Unknown),
        })
    }

    /// Asks until a member answers, each at most once, all within the time for one call.
    pub(super) async fn call<T, F>(&self, repeat: Repeat, send: impl Fn(Member) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        if let Ok(answer) = tokio::time::timeout(self.call_timeout, self.ask(repeat, send)).await {
            return answer;
        }
        self.pass_over(self.current.load(Ordering::Relaxed));
        Err(Status::deadline_exceeded(format!("etcd did not answer within {:?}", self.call_timeout)))
    }

    async fn ask<T, F>(&self, repeat: Repeat, send: impl Fn(Member) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut signed_in_anew = false;
        let mut passed_over = 0;
        loop {
            let current = self.current.load(Ordering::Relaxed);
            let channel = &self.channels[current];
            let (token, answer) = match self.sign_in(channel).await {
                Ok(token) => {
                    let member = Member { channel: channel.clone(), token: token.clone() };
                    (token, send(member).await)
                }
                Err(status) => (None, Err(status)),
            };
            let Err(status) = answer else { return answer };
            if is_stale_identity(&status) && !signed_in_anew && self.credentials.is_some() {
                signed_in_anew = true;
                self.forget(token.as_ref()).await;
            } else if is_members_fault(&status) {
                self.pass_over(current);
                passed_over += 1;
                if passed_over == self.channels.len() || (repeat == Repeat::IfUnsent && !is_unsent(&status)) {
                    return Err(status);
                }
            } else {
                return Err(status);
            }
        }
    }

    /// The next call asks the member after this one, if nobody has passed over it already.
    pub(super) fn pass_over(&self, member: usize) {
        let next = (member + 1) % self.channels.len();
        let moved = self.current.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if moved && next != member {
            tracing::debug!(member, next, "an etcd member is passed over");
        }
    }

    /// etcd says that it does not know this process any more: the next call signs in.
    pub(super) async fn sign_out(&self) {
        *self.identity.lock().await = Identity::Unknown;
    }

    async fn forget(&self, token: Option<&MetadataValue<Ascii>>) {
        let mut identity = self.identity.lock().await;
        let is_known = matches!(&*identity, Identity::Token(known) if Some(known) != token);
        // Another call may have signed in meanwhile.
        if !is_known {
            *identity = Identity::Unknown;
        }
    }

    async fn sign_in(&self, channel: &Channel) -> Result<Option<MetadataValue<Ascii>>, Status> {
        let Some(Credentials { user, password }) = &self.credentials else { return Ok(None) };
        let mut identity = self.identity.lock().await;
        match &*identity {
            Identity::Token(token) => return Ok(Some(token.clone())),
            Identity::Nobody => return Ok(None),
            Identity::Unknown => {}
        }
        let asked = pb::AuthenticateRequest { name: user.clone(), password: password.clone() };
        match AuthClient::new(channel.clone()).authenticate(asked).await {
            Ok(answer) => {
                let mut token: MetadataValue<Ascii> = (answer.into_inner().token.parse())
                    .map_err(|_| Status::internal("etcd's token is not text"))?;
                token.set_sensitive(true);
                *identity = Identity::Token(token.clone());
                Ok(Some(token))
            }
            Err(status) if status.code() == Code::FailedPrecondition => {
                *identity = Identity::Nobody;
                Ok(None)
            }
            Err(status) => Err(status),
        }
    }
}

/// A token ended, the rights were changed, or authentication was turned on.
fn is_stale_identity(status: &Status) -> bool {
    let text = status.message();
    status.code() == Code::Unauthenticated
        || text.contains("revision of auth store is old")
        || text.contains("user name is empty")
}

/// Whether another member might do better.
fn is_members_fault(status: &Status) -> bool {
    use Code::{Cancelled, DeadlineExceeded, Internal, Unavailable, Unknown};
    matches!(status.code(), Unavailable | Unknown | Cancelled | Internal | DeadlineExceeded)
}

/// No connection was made, so nothing can have been sent.
fn is_unsent(status: &Status) -> bool {
    std::iter::successors(status.source(), |&error| error.source()).any(<dyn Error>::is::<ConnectError>)
}
