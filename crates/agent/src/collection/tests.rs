//! The loop on a paused clock: an hour passes in milliseconds.

use model::config::parse;
use proto::record::NotSentAction;
use runtime::{Health, Scope};
use tokio::time::{advance, sleep};

use super::*;
use crate::buffer::Position;
use crate::parcel::Parcel;

struct Loop {
    lanes: Arc<Lanes>,
    view: watch::Receiver<View>,
    orders: mpsc::Sender<Order>,
    health: Health,
    scope: Scope,
}

fn start(host: Host, config: &str) -> Loop {
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let (lanes, health) = (Arc::new(Lanes::new(metrics.clone())), Health::default());
    let (collecting, view) = Collecting::new(
        host,
        &parse(config).unwrap(),
        Collection::Collecting,
        Clock::start(),
        Arc::clone(&lanes),
        metrics,
        health.component("collection"),
    )
    .unwrap();
    let (orders, inbox) = mpsc::channel(1);
    let scope = Scope::new("test");
    scope.spawn("collection", collecting.run(inbox, scope.stopping()));
    Loop { lanes, view, orders, health, scope }
}

impl Loop {
    async fn collect(&self, on: bool) {
        let (done, answer) = oneshot::channel();
        self.orders.send(Order::Collect { on, done }).await.unwrap();
        answer.await.unwrap();
    }

    fn parcels(&self) -> Vec<Arc<Parcel>> {
        let buffer = self.lanes.buffer();
        let mut next = Position::default();
        std::iter::from_fn(|| {
            let (at, parcel) = buffer.get(next)?;
            next = at.next();
            Some(parcel)
        })
        .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn ticks_keep_their_rhythm_and_are_numbered_without_a_gap() {
    let agent = start(Host::local(), r#"{"interval": 5, "metrics": ["memory"]}"#);
    sleep(Duration::from_secs(3_600)).await;
    // At 1, 6, 11, ... 3596 seconds.
    assert_eq!(agent.view.borrow().sequence, Sequence(720));
    agent.scope.stop(Duration::from_secs(1)).await.unwrap();
    let sequences: Vec<u64> = agent.parcels().iter().map(|parcel| parcel.first.0).collect();
    assert_eq!(sequences, (1..=720).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn ticks_without_data_are_accounted_for_once_a_minute() {
    let agent =
        start(Host::at("/nowhere", "/nowhere", "/nowhere"), r#"{"interval": 0.7, "metrics": ["load"]}"#);
    sleep(Duration::from_secs(90)).await;
    let parcels = agent.parcels();
    let [parcel] = &*parcels else { panic!("{parcels:?}") };
    assert_eq!((parcel.first, parcel.tick.as_ref()), (Sequence(1), None));
    assert_eq!((parcel.not_sent.len(), parcel.not_sent[0].action), (1, NotSentAction::NotCollected));
    // From 0.7 to 60.2 seconds.
    assert_eq!(parcel.ticks(), 86);
    let fault = agent.view.borrow().collectors[0].1.clone().unwrap();
    assert!(fault.contains("/nowhere/loadavg"), "{fault}");
    assert_eq!(agent.health.report().status, "DEGRADED");
}

#[tokio::test(start_paused = true)]
async fn a_paused_agent_collects_nothing_until_it_is_resumed() {
    let agent = start(Host::local(), r#"{"interval": 1, "metrics": ["memory"]}"#);
    sleep(Duration::from_millis(2_500)).await;
    agent.collect(false).await;
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(agent.view.borrow().sequence, Sequence(2));
    agent.collect(true).await;
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(agent.view.borrow().sequence, Sequence(4));
}

#[tokio::test(start_paused = true)]
async fn a_pause_sends_what_a_window_holds() {
    let config = r#"{"interval": 1, "metrics": ["memory"], "plugins": ["aggregation"], "window_size": 100}"#;
    let agent = start(Host::local(), config);
    sleep(Duration::from_millis(3_500)).await;
    assert!(agent.parcels().is_empty());
    agent.collect(false).await;
    assert_eq!(agent.parcels().iter().map(|parcel| parcel.ticks()).collect::<Vec<_>>(), [3]);
}

/// A FIFO in place of a file: opening it hangs until somebody writes.
#[tokio::test(start_paused = true)]
async fn a_collector_that_hangs_skips_ticks_and_holds_up_no_order() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("loadavg");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let agent = start(Host::at(folder.path(), "/sys", "/"), r#"{"interval": 1, "metrics": ["load"]}"#);
    // The reading before the first tick hangs already. A paused clock stands while a thread is blocked, so it is pushed.
    while agent.health.report().status != "DEGRADED" {
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    agent.collect(false).await;
    agent.collect(true).await;
    assert_eq!(agent.view.borrow().sequence, Sequence(0));

    // A file that can be read takes its place, and the writer that the hanging reader waits for comes. Opened for both,
    // a FIFO waits for nobody itself.
    let aside = folder.path().join("aside");
    std::fs::rename(&fifo, &aside).unwrap();
    std::fs::write(&fifo, "0.5 0.4 0.3 1/200 4242\n").unwrap();
    let _writer = std::fs::OpenOptions::new().read(true).write(true).open(&aside).unwrap();
    let mut view = agent.view.clone();
    view.wait_for(|view| view.sequence >= Sequence(2)).await.unwrap();
    assert_eq!(agent.health.report().status, "OK");
    assert!(!agent.parcels().is_empty());
}
