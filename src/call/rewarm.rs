//! [`Rewarming`]: invalidating what jobs have remembered, and enqueueing these jobs again.

use super::Larder;
use crate::cache::{Remake, Remakes, What, unique_key};
use crate::database::Tx;
use crate::error::Result;
use crate::queue::{Enqueued, JobId, JobStatus, NewJob};

/// Invalidating items, and enqueueing the memoized jobs again that made them; made by [`Larder::rewarming`].
///
/// It concerns the live items that are invalidated, and what was built from them in turn. The jobs are enqueued in the
/// order of what their items cost to compute, the most expensive last. Of a key there is one such job: one that is
/// queued already is joined, and so is one that runs and has yet to keep its result, which then runs again.
///
/// All of it happens in one transaction, its own or the caller's.
///
/// ```
/// # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
/// use larder::cache::Memo;
/// use larder::worker::WorkerOptions;
/// use larder::{Job, JobError, Larder, Worker};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Report { month: String }
///
/// impl Job for Report {
///     const NAME: &'static str = "report";
///     type Output = String;
///
///     fn memo(&self) -> Option<Memo> {
///         Some(Memo::new(format!("report:{}", self.month)).tags(["reports"]))
///     }
/// }
///
/// async fn report(job: Report) -> Result<String, JobError> {
///     Ok(format!("all of {}", job.month))
/// }
///
/// # let directory = tempfile::tempdir().unwrap();
/// # let url = &format!("sqlite://{}", directory.path().join("jobs.db").display());
/// let larder = Larder::connect(url).await?;
/// larder.queue().enqueue(&Report { month: "2026-11".to_owned() }).await?;
/// let mut options = WorkerOptions::default();
/// options.once = true; // ends when the queue is empty
/// Worker::connect(url).await?.options(options).register(report).run_until(std::future::pending()).await?;
///
/// let rewarmed = larder.rewarming().clear_tag("reports").await?;
/// assert_eq!((rewarmed.items, rewarmed.jobs.len()), (1, 1));
/// assert!(!larder.cache().exists("report:2026-11").await?);
/// let job = larder.queue().get(rewarmed.jobs[0].id).await?.unwrap();
/// assert_eq!((job.name.as_str(), job.payload.get()), ("report", r#"{"month":"2026-11"}"#));
/// # Ok::<(), larder::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is invalidated until one of its operations"]
pub struct Rewarming<'a> {
    larder: &'a Larder,
}

/// What came of an invalidation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rewarmed {
    /// How many items were invalidated, as the operation without rewarming counts.
    pub items: u64,
    /// The jobs that make them anew, those of the cheapest items first.
    pub jobs: Vec<Enqueued>,
}

impl Larder {
    /// Invalidating items so that the memoized jobs which made them run again: see [`Rewarming`].
    pub fn rewarming(&self) -> Rewarming<'_> {
        Rewarming { larder: self }
    }
}

/// An operation in a transaction of its own, by way of its form in the caller's.
macro_rules! alone {
    ($self:ident, $name:ident, $argument:expr) => {{
        let _writing = $self.larder.cache.writing_anything();
        let mut transaction = $self.larder.cache.database().begin().await?;
        let rewarmed = $self.$name(&mut transaction, $argument).await?;
        transaction.commit().await?;
        Ok(rewarmed)
    }};
}

impl Rewarming<'_> {
    /// [`Cache::clear_tag`](crate::Cache::clear_tag), not in batches.
    ///
    /// # Errors
    /// As [`Cache::clear_tag`](crate::Cache::clear_tag); nothing is changed then.
    pub async fn clear_tag(&self, tag: &str) -> Result<Rewarmed> {
        alone!(self, clear_tag_in, tag)
    }

    /// [`Rewarming::clear_tag`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Rewarming::clear_tag`], and where the transaction is of the other engine.
    pub async fn clear_tag_in<'c>(&self, tx: impl Into<Tx<'c>>, tag: &str) -> Result<Rewarmed> {
        self.tag_in(tx.into(), tag, What::Clear).await
    }

    /// [`Cache::mark_tag_stale`](crate::Cache::mark_tag_stale): the stale results are served until the jobs are done.
    ///
    /// # Errors
    /// As [`Rewarming::clear_tag`].
    pub async fn mark_tag_stale(&self, tag: &str) -> Result<Rewarmed> {
        alone!(self, mark_tag_stale_in, tag)
    }

    /// [`Rewarming::mark_tag_stale`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Rewarming::clear_tag_in`].
    pub async fn mark_tag_stale_in<'c>(
        &self,
        tx: impl Into<Tx<'c>>,
        tag: &str,
    ) -> Result<Rewarmed> {
        self.tag_in(tx.into(), tag, What::MarkStale).await
    }

    /// [`Cache::delete_many`](crate::Cache::delete_many).
    ///
    /// # Errors
    /// As [`Cache::delete_many`](crate::Cache::delete_many).
    pub async fn delete_many(
        &self,
        keys: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Rewarmed> {
        alone!(self, delete_many_in, keys)
    }

    /// [`Rewarming::delete_many`] in the caller's transaction.
    ///
    /// # Errors
    /// As [`Rewarming::delete_many`], and where the transaction is of the other engine.
    pub async fn delete_many_in<'c>(
        &self,
        tx: impl Into<Tx<'c>>,
        keys: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Rewarmed> {
        let keys: Vec<String> = keys.into_iter().map(Into::into).collect();
        let mut tx = self.larder.cache.database().own(tx)?;
        let (items, mut remakes) = self.larder.cache.delete_remade_in(&mut tx, &keys).await?;
        remakes.retain(can_be_made);
        let jobs = self.enqueue(&mut tx, &remakes).await?;
        Ok(Rewarmed { items, jobs })
    }

    async fn tag_in(&self, tx: Tx<'_>, tag: &str, what: What) -> Result<Rewarmed> {
        let cache = &self.larder.cache;
        let (mut tx, mut remakes) = (cache.database().own(tx)?, Remakes::new());
        let items = cache
            .all_tag_pages_in(tx.reborrow(), tag, what, Some(&mut remakes))
            .await?;
        remakes.retain(can_be_made);
        let jobs = self.enqueue(&mut tx, &remakes).await?;
        if matches!(what, What::MarkStale) {
            for (enqueued, (key, remake)) in jobs.iter().zip(by_cost(&remakes)) {
                cache
                    .say_refresh_in(&mut tx, key, remake.generation, enqueued.id)
                    .await?;
            }
        }
        Ok(Rewarmed { items, jobs })
    }

    /// The job that makes each anew, in the order of their cost.
    async fn enqueue(&self, tx: &mut Tx<'_>, remakes: &Remakes) -> Result<Vec<Enqueued>> {
        let queue = &self.larder.queue;
        let ordered = by_cost(remakes);
        let new = ordered
            .iter()
            .map(|(key, remake)| Ok(job(remake)?.unique_key(unique_key(key))))
            .collect::<Result<Vec<_>>>()?;
        let mut jobs = queue.enqueue_many_in(tx.reborrow(), new).await?;
        for (enqueued, (key, remake)) in jobs.iter_mut().zip(ordered) {
            if !enqueued.inserted && self.is_too_late(tx, enqueued.id, remake).await? {
                let next = job(remake)?.unique_key(format!("next:{key}"));
                *enqueued = queue.enqueue_new(next).in_tx(tx.reborrow()).await?;
            }
        }
        Ok(jobs)
    }

    /// Whether the job that was joined runs, and may have kept its result before the invalidation, or is cancelled and
    /// will not run once more for it: then it holds the unique key, and makes nothing anew.
    async fn is_too_late(&self, tx: &mut Tx<'_>, joined: JobId, remake: &Remake) -> Result<bool> {
        let queue = &self.larder.queue;
        queue.say_running_in(tx.reborrow(), joined).await?;
        let job = queue.get_in(tx.reborrow(), joined).await?;
        let running = job.filter(|job| job.status == JobStatus::Running);
        Ok(running
            .is_some_and(|job| job.cancelled_at.is_some() || remake.computing != Some(joined)))
    }
}

fn by_cost(remakes: &Remakes) -> Vec<(&String, &Remake)> {
    let mut ordered: Vec<_> = remakes.iter().collect();
    ordered.sort_by_key(|(_, remake)| remake.cost);
    ordered
}

/// A row that nobody can read keeps nobody from invalidating it.
fn can_be_made(key: &String, remake: &mut Remake) -> bool {
    let job = job(remake);
    if let Err(error) = &job {
        tracing::warn!(key, %error, "an item is not made anew");
    }
    job.is_ok()
}

fn job(remake: &Remake) -> Result<NewJob> {
    let made_by = &remake.made_by;
    let payload = serde_json::value::RawValue::from_string(made_by.payload.clone());
    let payload = payload.map_err(|error| {
        crate::Error::invalid(format!(
            "the payload of job {:?}, which made an item, is not JSON: {error}",
            made_by.name
        ))
    })?;
    let job = NewJob::named(&made_by.name, &payload).queue(&made_by.queue);
    Ok(match made_by.max_attempts {
        Some(attempts) => job.max_attempts(attempts),
        None => job,
    })
}
