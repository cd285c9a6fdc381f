use std::time::Duration;

use super::super::enqueue::row_of;
use super::super::limits::QueueLimits;
use super::*;
use crate::clock::Clock;
use crate::queue::NewJob;

struct Waiting {
    vacancies: Arc<Vacancies>,
    host: Arc<Host>,
    slots: Arc<Slots>,
    claimed: mpsc::UnboundedReceiver<Claimed>,
    table: watch::Sender<QueueTable>,
    doubts: mpsc::UnboundedReceiver<()>,
    published: Option<Published>,
}

/// A worker of two slots that knows the name `known`, and waits for jobs of the queue `default`.
fn waiting() -> Waiting {
    waiting_beaten(Duration::from_secs(3600))
}

/// Its jobs are others' after a silence of this.
fn waiting_beaten(rescue_after: Duration) -> Waiting {
    let (doubt, doubts) = mpsc::unbounded_channel();
    let (seat, claimed) = mpsc::unbounded_channel();
    let (table, read) = watch::channel(QueueTable::default());
    let host = Arc::new(Host {
        worker: JobId(uuid::Uuid::now_v7()),
        names: vec!["known".to_owned()],
        concurrency: 2,
        table: read,
        held: Held::default(),
        pulse: Arc::new(Pulse::new(rescue_after, Moment::now())),
        stop: CancellationToken::new(),
        gone: CancellationToken::new(),
        doubt,
    });
    let slots = Slots::new(2, Arc::default(), Instant::now());
    let seat = Seat {
        queue: "default".into(),
        slots: slots.clone(),
        claimed: seat,
    };
    let vacancies = Arc::<Vacancies>::default();
    let published = Some(vacancies.publish(&host, vec![seat]));
    Waiting {
        vacancies,
        host,
        slots,
        claimed,
        table,
        doubts,
        published,
    }
}

fn now() -> Timestamp {
    Clock::system().now()
}

fn row(name: &str, queue: &str) -> Row {
    let payload = serde_json::value::RawValue::from_string("[1]".to_owned()).unwrap();
    let job = NewJob::named(name, &payload).queue(queue);
    row_of(job, uuid::Uuid::now_v7(), now(), 3).unwrap()
}

impl Waiting {
    fn reserve(&self, rows: &[Row]) -> Option<Reserved> {
        self.vacancies
            .reserve(&rows.iter().collect::<Vec<_>>(), now())
    }

    fn takes(&self, rows: &[Row]) -> bool {
        let reserved = self.reserve(rows);
        let takes = reserved.is_some();
        drop(reserved);
        assert!(self.slots.are_idle() && self.host.held.is_empty());
        takes
    }
}

#[test]
fn slots_are_reserved_for_jobs_that_the_worker_may_begin_and_for_no_others() {
    let mut worker = waiting();
    let known = || row("known", "default");
    assert!(worker.takes(&[known()]) && worker.takes(&[known(), known()]));
    assert!(!worker.takes(&[]));
    assert!(
        !worker.takes(&[known(), known(), known()]),
        "it has two slots"
    );
    assert!(!worker.takes(&[known(), row("unknown", "default")]));
    assert!(!worker.takes(&[row("known", "other")]));
    assert!(!worker.takes(&[known(), row("known", "other")]));
    let change = |change: fn(&mut QueueTable)| worker.table.send_modify(change);
    change(|table| {
        let limits = QueueLimits {
            max_running: Some(5),
            rate: None,
        };
        table.limits.insert("default".to_owned(), limits);
    });
    assert!(!worker.takes(&[known()]), "it has a limit");
    change(|table| {
        table.limits.clear();
        table.concurrency.insert("default".to_owned(), 1);
    });
    assert!(worker.takes(&[known()]));
    assert!(!worker.takes(&[known(), known()]), "it has one slot now");
    worker.published.take();
    assert!(!worker.takes(&[known()]), "it has withdrawn");
}

#[test]
fn a_worker_that_stops_or_was_dropped_or_is_silent_or_without_its_apalis_worker_is_given_none() {
    let rows = [row("known", "default")];
    let worker = waiting();
    worker.host.stop.cancel();
    assert!(!worker.takes(&rows));
    let worker = waiting();
    worker.host.gone.cancel();
    assert!(!worker.takes(&rows));
    let mut worker = waiting();
    worker.claimed.close();
    assert!(!worker.takes(&rows));
    let worker = waiting_beaten(Duration::ZERO);
    assert!(!worker.takes(&rows), "others may have its jobs");
}

#[test]
fn what_runs_is_handed_on_what_is_queued_let_go_and_the_rest_looked_for() {
    let mut worker = waiting();
    let held = worker.host.held.clone();
    let rows = [row("known", "default"), row("known", "default")];
    let ids: Vec<_> = rows.iter().map(|row| JobId(row.0)).collect();

    let mut reserved = worker.reserve(&rows).unwrap();
    assert_eq!(held.attempts().len(), 2, "before their rows are there");
    let inserted = HashMap::from([(ids[0], true), (ids[1], false)]);
    assert!(reserved.hand_on(&inserted).is_empty() && reserved.is_settled());
    drop(reserved);
    let job = worker.claimed.try_recv().unwrap();
    assert_eq!((job.id, job.attempt, job.max_attempts), (ids[0], 1, 3));
    assert!(held.attempts().contains(&(ids[0], 1)) && held.attempts().len() == 1);
    drop(job);
    assert!(worker.doubts.try_recv().is_err());

    let mut reserved = worker.reserve(&rows).unwrap();
    assert!(
        reserved
            .hand_on(&HashMap::from([(ids[1], true)]))
            .is_empty()
    );
    assert!(!reserved.is_settled() && worker.doubts.try_recv().is_err());
    drop(reserved);
    assert!(
        worker.doubts.try_recv().is_ok(),
        "the first was there already"
    );
    assert_eq!(held.attempts(), [(ids[1], 1)].into());
    drop(worker.claimed.try_recv().unwrap());

    drop(worker.reserve(&rows).unwrap());
    assert!(worker.doubts.try_recv().is_ok(), "nobody knows of either");
    assert!(held.is_empty() && worker.slots.are_idle());
}

#[test]
fn jobs_whose_worker_has_gone_come_back() {
    let mut worker = waiting();
    let rows = [row("known", "default")];
    let inserted = HashMap::from([(JobId(rows[0].0), true)]);
    for round in 0..2 {
        let mut reserved = worker.reserve(&rows).unwrap();
        if round == 0 {
            worker.claimed.close();
        } else {
            worker.host.gone.cancel();
        }
        let homeless = reserved.hand_on(&inserted);
        assert_eq!(begun(&homeless[0]).0, JobId(rows[0].0));
        assert!(reserved.is_settled(), "they are known");
        reserved.put_in_doubt(homeless);
        drop(reserved);
        assert!(worker.doubts.try_recv().is_ok());
        if round == 0 {
            worker = waiting();
        }
    }
}
