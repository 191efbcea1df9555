//! The registry on etcd, by etcd's v3 API.
//!
//! Calls go to one [`members`]-chosen member and are bounded in time. [`watcher`] keeps watches going over lost streams,
//! restarts and compactions. Nothing is cached and nothing is kept here: every law but 4 is etcd's own.

mod cursor;
mod members;
mod options;
mod watcher;
mod wire;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::id::Revision;
use runtime::Scope;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::{Code, Status, Streaming};

use self::cursor::Cursor;
use self::members::{Members, Repeat};
pub use self::options::{Credentials, Options, OptionsError, Tls};
use self::watcher::Watcher;
use self::wire::pb;
use self::wire::pb::kv_client::KvClient;
use self::wire::pb::lease_client::LeaseClient;
use self::wire::pb::watch_client::WatchClient;
use super::{
    Committed, Entry, LeaseId, Operation, Registry, RegistryError, Snapshot, Txn, VALUE_BYTES_MAX, Watch,
};

/// Events between a watch's task and its owner.
const WATCH_EVENTS: usize = 128;
/// Keys asked for at once.
const PAGE_KEYS: i64 = 1_000;
/// The largest answer taken. A page that is larger is asked for in smaller parts.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A listing whose revision is compacted while it is read begins anew, so often.
const LIST_TRIES: usize = 3;
/// etcd's minimum with its default election timeout; it raises what is below by itself.
const TTL_SECONDS_MIN: u64 = 2;
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// The registry on etcd. Dropping it stops its tasks soon; [`EtcdRegistry::close`] waits for them.
#[derive(Debug)]
pub struct EtcdRegistry {
    shared: Arc<Shared>,
}

/// What the registry and its watches have in common.
#[derive(Debug)]
struct Shared {
    members: Members,
    scope: Scope,
    interruption: Duration,
}

impl EtcdRegistry {
    /// Checks the options. Connects when it is first asked, so that an etcd that is away now is no reason not to start.
    ///
    /// Call it inside a tokio runtime: the registry's tasks run there.
    pub fn connect(options: &Options) -> Result<Self, OptionsError> {
        let members = Members::new(options)?;
        let shared = Shared { members, scope: Scope::new("registry"), interruption: options.interruption };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Ends every watch. Later calls give [`RegistryError::Closed`].
    pub async fn close(&self) -> Result<(), RegistryError> {
        let stopped = self.shared.scope.stop(CLOSE_WITHIN).await;
        stopped.map_err(|error| RegistryError::Store { reason: error.to_string() })
    }
}

impl Drop for EtcdRegistry {
    fn drop(&mut self) {
        self.shared.scope.cancel();
    }
}

#[async_trait]
impl Registry for EtcdRegistry {
    async fn get(&self, key: &str) -> Result<Option<Entry>, RegistryError> {
        let asked = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        let answer = self.shared.unless_closed(self.shared.range(asked)).await?;
        Ok(answer.kvs.into_iter().next().and_then(wire::entry))
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, RegistryError> {
        self.shared.unless_stopping(self.shared.list(prefix)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, RegistryError> {
        txn.operations.iter().try_for_each(check_size)?;
        let mut leases: Vec<LeaseId> = txn.operations.iter().filter_map(Operation::lease).collect();
        leases.sort_unstable();
        leases.dedup();
        let asked = wire::txn(txn);
        let answer = self.shared.members.call(Repeat::IfUnsent, |member| {
            let asked = asked.clone();
            async move { KvClient::new(member.channel.clone()).txn(member.request(asked)).await }
        });
        match self.shared.unless_stopping(async { Ok(answer.await) }).await? {
            Ok(answer) => {
                let answer = answer.into_inner();
                let revision = wire::revision(answer.header.as_ref());
                Ok(Committed { succeeded: answer.succeeded, revision })
            }
            Err(status) if status.code() == Code::NotFound => Err(self.shared.which_is_gone(&leases).await),
            Err(status) => Err(error_of(&status)),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, RegistryError> {
        self.shared.unless_stopping(async { Ok(()) }).await?;
        let (events, receiver) = mpsc::channel(WATCH_EVENTS);
        let cursor = Some(Cursor::after(after));
        let watcher = Watcher { shared: Arc::clone(&self.shared), prefix: prefix.to_owned(), cursor, events };
        self.shared.scope.spawn("registry-watch", watcher.run());
        Ok(Watch::new(receiver))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, RegistryError> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let ttl = i64::try_from(seconds.max(TTL_SECONDS_MIN)).unwrap_or(i64::MAX);
        // A lease whose answer was lost ends by itself, so asking again is harmless.
        let answer = self.shared.members.call(Repeat::Freely, |member| async move {
            let asked = member.request(pb::LeaseGrantRequest { ttl, id: 0 });
            LeaseClient::new(member.channel.clone()).lease_grant(asked).await
        });
        Ok(LeaseId(self.shared.unless_closed(answer).await?.into_inner().id))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), RegistryError> {
        let answer = self.shared.members.call(Repeat::Freely, |member| async move {
            let asked = member.request(tokio_stream::once(pb::LeaseKeepAliveRequest { id: lease.0 }));
            let answers = LeaseClient::new(member.channel.clone()).lease_keep_alive(asked).await?;
            first(&mut answers.into_inner()).await
        });
        // A lease that is gone is no error to etcd: it has no time to live.
        match self.shared.unless_closed(answer).await?.ttl {
            1.. => Ok(()),
            _ => Err(RegistryError::NoSuchLease(lease)),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), RegistryError> {
        let answer = self.shared.members.call(Repeat::IfUnsent, |member| async move {
            let asked = member.request(pb::LeaseRevokeRequest { id: lease.0 });
            LeaseClient::new(member.channel.clone()).lease_revoke(asked).await
        });
        match self.shared.unless_stopping(async { Ok(answer.await) }).await? {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Err(RegistryError::NoSuchLease(lease)),
            Err(status) => Err(error_of(&status)),
        }
    }
}

impl Shared {
    /// A call that ends when the registry closes.
    async fn unless_stopping<T>(
        &self,
        call: impl Future<Output = Result<T, RegistryError>> + Send,
    ) -> Result<T, RegistryError> {
        let stopping = self.scope.stopping();
        tokio::select! {
            biased;
            () = stopping.cancelled() => Err(RegistryError::Closed),
            answer = call => answer,
        }
    }

    /// As above, for a call of which every refusal is an error.
    async fn unless_closed<T>(
        &self,
        call: impl Future<Output = Result<T, Status>> + Send,
    ) -> Result<T, RegistryError> {
        self.unless_stopping(async { call.await.map_err(|status| error_of(&status)) }).await
    }

    async fn range(&self, asked: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        let answer = self.members.call(Repeat::Freely, |member| {
            let asked = asked.clone();
            async move {
                let client = KvClient::new(member.channel.clone());
                client.max_decoding_message_size(ANSWER_BYTES_MAX).range(member.request(asked)).await
            }
        });
        Ok(answer.await?.into_inner())
    }

    /// The newest revision, agreed on by the cluster.
    async fn revision(&self) -> Result<Revision, RegistryError> {
        let asked =
            pb::RangeRequest { key: Bytes::from_static(b"/"), count_only: true, ..Default::default() };
        let answer = self.range(asked).await.map_err(|status| error_of(&status))?;
        Ok(wire::revision(answer.header.as_ref()))
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, RegistryError> {
        let mut page_keys = PAGE_KEYS;
        for _ in 0..LIST_TRIES {
            if let Some(snapshot) = self.list_once(prefix, &mut page_keys).await.map_err(|s| error_of(&s))? {
                return Ok(snapshot);
            }
        }
        let reason =
            format!("everything under {prefix} was compacted {LIST_TRIES} times while it was listed");
        Err(RegistryError::Unavailable { reason })
    }

    /// Page by page at the revision of the first; `None` when that was compacted on the way.
    async fn list_once(&self, prefix: &str, page_keys: &mut i64) -> Result<Option<Snapshot>, Status> {
        let (mut key, range_end) = wire::range_of(prefix);
        let mut revision = Revision(0);
        let mut entries = Vec::new();
        loop {
            let asked = pb::RangeRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                limit: *page_keys,
                revision: wire::signed(revision),
                ..Default::default()
            };
            let answer = match self.range(asked).await {
                Ok(answer) => answer,
                Err(status) if is_too_large(&status) && *page_keys > 1 => {
                    *page_keys /= 2;
                    continue;
                }
                Err(status) if is_compacted(&status) => return Ok(None),
                Err(status) => return Err(status),
            };
            if revision == Revision(0) {
                revision = wire::revision(answer.header.as_ref());
            }
            let next = answer.kvs.last().filter(|_| answer.more).map(|last| wire::after(&last.key));
            entries.extend(answer.kvs.into_iter().filter_map(wire::entry));
            match next {
                Some(next) => key = next,
                None => return Ok(Some(Snapshot { revision, entries })),
            }
        }
    }

    /// A stream of what happens under `prefix` from a revision on, and etcd's word that it was begun.
    async fn open_watch(
        &self,
        prefix: &str,
        start: Revision,
    ) -> Result<(pb::WatchResponse, Streaming<pb::WatchResponse>), Status> {
        let (key, range_end) = wire::range_of(prefix);
        let create = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: wire::signed(start),
            progress_notify: true,
            fragment: true,
        };
        let create = pb::watch_request::RequestUnion::CreateRequest(create);
        let asked = pb::WatchRequest { request_union: Some(create) };
        let opened = self.members.call(Repeat::Freely, |member| {
            // The watch lives as long as its requests' side is open.
            let requests = tokio_stream::once(asked.clone()).chain(tokio_stream::pending());
            async move {
                let client = WatchClient::new(member.channel.clone());
                let answers = client
                    .max_decoding_message_size(ANSWER_BYTES_MAX)
                    .watch(member.request(requests))
                    .await?;
                let mut answers = answers.into_inner();
                let created = first(&mut answers).await?;
                // What is refused at once is refused for who asks; that is no error of the stream to etcd.
                if created.canceled && created.compact_revision == 0 {
                    return Err(Status::unauthenticated(created.cancel_reason));
                }
                Ok((created, answers))
            }
        });
        opened.await
    }

    /// etcd does not say which lease of several it does not know.
    async fn which_is_gone(&self, leases: &[LeaseId]) -> RegistryError {
        let Some((last, others)) = leases.split_last() else {
            return RegistryError::Store { reason: "etcd misses a lease that was not named".to_owned() };
        };
        for lease in others {
            let answer = self.members.call(Repeat::Freely, |member| async move {
                let asked = member.request(pb::LeaseTimeToLiveRequest { id: lease.0 });
                LeaseClient::new(member.channel.clone()).lease_time_to_live(asked).await
            });
            match self.unless_closed(answer).await {
                Ok(answer) if answer.get_ref().ttl > 0 => {}
                Ok(_) => return RegistryError::NoSuchLease(*lease),
                Err(error) => return error,
            }
        }
        RegistryError::NoSuchLease(*last)
    }
}

/// The first message of a stream that must have one.
async fn first<T>(answers: &mut Streaming<T>) -> Result<T, Status> {
    answers.message().await?.ok_or_else(|| Status::unavailable("etcd ended the stream without an answer"))
}

fn check_size(operation: &Operation) -> Result<(), RegistryError> {
    match operation {
        Operation::Put { key, value, .. } if value.len() > VALUE_BYTES_MAX => {
            Err(RegistryError::TooLarge { key: key.clone(), bytes: value.len(), max: VALUE_BYTES_MAX })
        }
        Operation::Put { .. } | Operation::Delete { .. } => Ok(()),
    }
}

/// What a status that no caller knows better means. Which codes are passing is etcd's table of errors (api/v3rpc).
fn error_of(status: &Status) -> RegistryError {
    use Code::{DataLoss, InvalidArgument, NotFound, PermissionDenied, Unauthenticated, Unimplemented};
    let reason = reason(status);
    match status.code() {
        DataLoss | InvalidArgument | NotFound | PermissionDenied | Unauthenticated | Unimplemented => {
            RegistryError::Store { reason }
        }
        _ if is_too_large(status) => RegistryError::Store { reason },
        _ => RegistryError::Unavailable { reason },
    }
}

/// The message, and the cause at the bottom: tonic says "tcp connect error", its source says why.
fn reason(status: &Status) -> String {
    let causes = std::iter::successors(status.source(), |&error| error.source());
    match causes.last().map(ToString::to_string) {
        Some(cause) if !status.message().contains(&cause) => format!("etcd: {}: {cause}", status.message()),
        _ => format!("etcd: {}", status.message()),
    }
}

/// gRPC on either side refused the message for its size.
fn is_too_large(status: &Status) -> bool {
    let text = status.message();
    text.contains("message length too large") || text.contains("message larger than max")
}

fn is_compacted(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("compacted")
}
