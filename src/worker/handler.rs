//! Handlers by the name of their job.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use apalis_core::error::BoxDynError;
use apalis_core::task::Task;
use apalis_core::task::extensions::Extensions;
use apalis_core::task::from_request::FromRequest;
use apalis_core::task::into_response::IntoResponse;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::value::RawValue;

use super::JobError;
use crate::cache::{Cache, Memo};
use crate::error::{Error, Result};
use crate::queue::{Backoff, Job, NewJob};

/// An apalis task function for jobs of type `J`: an `async fn` whose first argument is the job, and whose others are
/// [`Data`](super::Data), [`JobContext`](super::JobContext) and whatever else apalis can give.
///
/// It is implemented for every such function; there is no need to implement it.
pub trait Handler<J: Job, Args>: Clone + Send + Sync + 'static {
    /// Whether it takes arguments besides the job.
    const TAKES_DATA: bool = true;

    /// Runs one attempt.
    fn run(&self, task: Task<J>) -> BoxFuture<'static, Result<J::Output, BoxDynError>>;
}

macro_rules! handler {
    ($($Argument:ident),*) => {
        impl<F, J, Ended, Answer, $($Argument),*> Handler<J, ($($Argument,)*)> for F
        where
            F: Fn(J, $($Argument),*) -> Ended + Clone + Send + Sync + 'static,
            J: Job,
            Ended: Future<Output = Answer> + Send + 'static,
            Answer: IntoResponse<Output = J::Output> + 'static,
            $($Argument: FromRequest<Task<J>, Error: std::error::Error + Send + Sync + 'static> + Send + 'static),*
        {
            const TAKES_DATA: bool = {
                let arguments: &[&str] = &[$(stringify!($Argument)),*];
                !arguments.is_empty()
            };

            fn run(&self, task: Task<J>) -> BoxFuture<'static, Result<J::Output, BoxDynError>> {
                let handler = self.clone();
                async move {
                    $(
                        #[allow(non_snake_case, reason = "it is named like its type")]
                        let $Argument = <$Argument as FromRequest<Task<J>>>::from_request(&task).await.map_err(Box::new)?;
                    )*
                    handler(task.args, $($Argument),*).await.into_response()
                }
                .boxed()
            }
        }
    };
}

handler!();
handler!(A1);
handler!(A1, A2);
handler!(A1, A2, A3);
handler!(A1, A2, A3, A4);
handler!(A1, A2, A3, A4, A5);
handler!(A1, A2, A3, A4, A5, A6);
handler!(A1, A2, A3, A4, A5, A6, A7);
handler!(A1, A2, A3, A4, A5, A6, A7, A8);

type Run = BoxFuture<'static, Result<String, JobError>>;

/// What an attempt begins with.
pub(super) enum Begun {
    Runs(Run),
    /// Its result is remembered in this cache.
    Remembers(Box<(Memo, Cache)>, Task<String>),
}

/// A job type and its handler.
#[derive(Clone)]
#[non_exhaustive]
pub struct Registered {
    /// The name of the job type.
    pub name: &'static str,
    /// The queue that its jobs wait in, unless said otherwise.
    pub queue: &'static str,
    /// How often its jobs are tried, unless said otherwise.
    pub max_attempts: Option<u16>,
    pub(super) backoff: Option<Backoff>,
    pub(super) timeout: Option<Duration>,
    run: Arc<dyn Fn(Task<String>) -> Run + Send + Sync>,
    begin: Arc<Begin>,
    check: fn(&str) -> Result<(), serde_json::Error>,
    fits: Option<Arc<Fits>>,
    memo: Arc<MemoOf>,
    /// Whether `memo` is the one that jobs of this type have themselves.
    own_memo: bool,
    takes_data: bool,
}

type Begin = dyn Fn(Task<String>, &Extensions) -> Begun + Send + Sync;

type MemoOf = dyn Fn(&str, &Extensions) -> Option<Memo> + Send + Sync;

type Fits = dyn Fn(&str, &dyn Any) -> Result<()> + Send + Sync;

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered")
            .field("name", &self.name)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl Registered {
    /// A job of this type, if `payload` fits it.
    ///
    /// # Errors
    /// Where the payload does not fit, naming the job and the fault.
    pub fn job(&self, payload: &RawValue) -> Result<NewJob> {
        (self.check)(payload.get()).map_err(|error| {
            Error::invalid(format!("the payload does not fit job {:?}: {error}; see what it takes in its documentation", self.name))
        })?;
        let mut job = NewJob::named(self.name, payload).queue(self.queue);
        if let Some(attempts) = self.max_attempts {
            job = job.max_attempts(attempts);
        }
        Ok(job)
    }

    /// Whether a worker that gives its handlers this `data` can run a job with this payload, as far as
    /// [`Handlers::fitting`] says.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn fits<T: 'static>(&self, payload: &RawValue, data: &T) -> Result<()> {
        self.fits
            .as_ref()
            .map_or(Ok(()), |fits| fits(payload.get(), data))
    }

    /// Runs the handler.
    pub(super) fn run(&self, task: Task<String>) -> Run {
        (self.run)(task)
    }

    /// Whether anything asks for the data that its tasks are given.
    pub(super) fn takes_data(&self) -> bool {
        self.takes_data || !self.own_memo
    }

    /// Runs the handler, unless the job's result is remembered. Of `data`, which all jobs share, it takes the cache.
    pub(super) fn begin(&self, task: Task<String>, data: &Extensions) -> Begun {
        if self.own_memo {
            return (self.begin)(task, data);
        }
        match remembered(self.memo(&task.args, task.data()), data) {
            Some(remembered) => Begun::Remembers(remembered, task),
            None => Begun::Runs(self.run(task)),
        }
    }

    /// What a job with this payload says of its result, where its handler is given this data.
    pub(super) fn memo(&self, payload: &str, data: &Extensions) -> Option<Memo> {
        (self.memo)(payload, data)
    }

    /// [`Registered::memo`] with data of one type.
    #[cfg(feature = "cli")]
    pub(crate) fn memo_with<T: Clone + Send + Sync + 'static>(
        &self,
        payload: &RawValue,
        data: T,
    ) -> Option<Memo> {
        let mut given = Extensions::new();
        given.insert(data);
        self.memo(payload.get(), &given)
    }
}

/// Job types and their handlers, by name.
///
/// ```
/// use larder::worker::Handlers;
/// use larder::{Job, JobError};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Ping { host: String }
///
/// impl Job for Ping {
///     const NAME: &'static str = "ping";
///     type Output = bool;
/// }
///
/// async fn ping(job: Ping) -> Result<bool, JobError> {
///     Ok(!job.host.is_empty())
/// }
///
/// let handlers = Handlers::default().register(ping);
/// assert_eq!(handlers.names(), ["ping"]);
/// assert!(handlers.get("pong").is_err());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Handlers {
    by_name: BTreeMap<&'static str, Arc<Registered>>,
}

impl Handlers {
    /// Runs jobs of type `J` by `handler`.
    #[must_use]
    pub fn register<J: Job, Args: 'static>(self, handler: impl Handler<J, Args>) -> Self {
        self.registered(handler)
    }

    fn registered<J: Job, Args: 'static, H: Handler<J, Args>>(mut self, handler: H) -> Self {
        let run = move |task: Task<()>, job: Result<J, serde_json::Error>| -> Run {
            let handler = handler.clone();
            async move {
                let job = job.map_err(|error| {
                    JobError::abort(format!("its payload does not fit the job: {error}"))
                })?;
                let run = handler.run(task.map_args(|()| job));
                let output = run.await.map_err(JobError::from_boxed)?;
                encode(&output).map_err(|error| {
                    JobError::retry(format!("its result does not serialise to JSON: {error}"))
                })
            }
            .boxed()
        };
        let begin = {
            let run = run.clone();
            move |task: Task<String>, data: &Extensions| {
                let job = decode::<J>(&task.args);
                let memo = job.as_ref().ok().and_then(J::memo);
                match remembered(memo, data) {
                    Some(remembered) => Begun::Remembers(remembered, task),
                    None => Begun::Runs(run(task.map_args(drop), job)),
                }
            }
        };
        let registered = Registered {
            name: J::NAME,
            queue: J::QUEUE,
            max_attempts: J::MAX_ATTEMPTS,
            backoff: J::BACKOFF,
            timeout: J::TIMEOUT,
            run: Arc::new(move |task| {
                let job = decode(&task.args);
                run(task.map_args(drop), job)
            }),
            begin: Arc::new(begin),
            check: |payload| decode::<J>(payload).map(drop),
            fits: None,
            memo: Arc::new(|payload, _| decode::<J>(payload).ok()?.memo()),
            own_memo: true,
            takes_data: H::TAKES_DATA,
        };
        let registered = Arc::new(registered);
        self.by_name.insert(J::NAME, registered);
        self
    }

    /// Says that a job of type `J`, which must be registered, can be run only where `fits` finds nothing wrong with it
    /// and the data of type `T` that its handler is given. A schedule that enqueues another is refused at the start.
    ///
    /// ```
    /// use larder::command::Commands;
    /// use larder::worker::Handlers;
    /// use serde_json::value::RawValue;
    ///
    /// let handlers = larder::jobs::all();
    /// let payload = RawValue::from_string(r#"{"command":"report"}"#.to_owned())?;
    /// let error = handlers.get("run_command")?.fits(&payload, &Commands::default()).unwrap_err();
    /// assert!(error.to_string().starts_with(r#"there is no command "report""#));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn fitting<J: Job, T: 'static>(mut self, fits: fn(&J, &T) -> Result<()>) -> Self {
        if let Some(registered) = self.by_name.get_mut(J::NAME) {
            Arc::make_mut(registered).fits = Some(Arc::new(move |payload, data| {
                // One that does not decode is refused for that, and other data is no concern of this.
                match (decode::<J>(payload), data.downcast_ref::<T>()) {
                    (Ok(job), Some(data)) => fits(&job, data),
                    _ => Ok(()),
                }
            }));
        }
        self
    }

    /// Takes the [`memo`](Job::memo) of jobs of type `J`, which must be registered, from `memo`, which is also given the
    /// data of type `T` that their handler is given.
    ///
    /// ```
    /// use larder::cache::Memo;
    /// use larder::worker::Handlers;
    /// use larder::{Job, JobError};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Forecast { city: String }
    ///
    /// impl Job for Forecast {
    ///     const NAME: &'static str = "forecast";
    ///     type Output = String;
    /// }
    ///
    /// #[derive(Clone)]
    /// struct Model { version: u32 }
    ///
    /// async fn forecast(job: Forecast) -> Result<String, JobError> {
    ///     Ok(format!("fine in {}", job.city))
    /// }
    ///
    /// let memo = |job: &Forecast, model: &Model| Some(Memo::new(format!("forecast:{}:{}", model.version, job.city)));
    /// let handlers = Handlers::default().register(forecast).memoizing(memo);
    /// assert!(handlers.get("forecast").is_ok());
    /// ```
    #[must_use]
    pub fn memoizing<J: Job, T: Send + Sync + 'static>(
        mut self,
        memo: fn(&J, &T) -> Option<Memo>,
    ) -> Self {
        if let Some(registered) = self.by_name.get_mut(J::NAME) {
            let registered = Arc::make_mut(registered);
            registered.own_memo = false;
            registered.memo =
                Arc::new(move |payload, data| memo(&decode::<J>(payload).ok()?, data.get::<T>()?));
        }
        self
    }

    /// These and `others`.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.by_name.extend(others.by_name);
        self
    }

    /// The jobs whose handlers are given data.
    pub(super) fn takers(&self) -> Arc<BTreeSet<&'static str>> {
        let handlers = self.by_name.iter();
        let takers = handlers.filter(|(_, registered)| registered.takes_data());
        Arc::new(takers.map(|(name, _)| *name).collect())
    }

    /// The names of the job types, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.by_name.keys().map(ToString::to_string).collect()
    }

    /// The job type of this name.
    ///
    /// # Errors
    /// Where there is none, naming those that there are.
    pub fn get(&self, name: &str) -> Result<&Registered> {
        self.shared(name).map(|registered| &**registered)
    }

    pub(super) fn shared(&self, name: &str) -> Result<&Arc<Registered>> {
        self.by_name.get(name).ok_or_else(|| {
            Error::invalid(format!(
                "there is no job named {name:?}: choose one of {}",
                self.names().join(", ")
            ))
        })
    }
}

/// The memo, and where what it says is kept.
fn remembered(memo: Option<Memo>, data: &Extensions) -> Option<Box<(Memo, Cache)>> {
    Some(Box::new((memo?, data.get::<Cache>()?.clone())))
}

/// A result. Most are short: serde's own would begin with 128 bytes, more than the allocator has at hand in many threads.
fn encode(output: &impl serde::Serialize) -> Result<String, serde_json::Error> {
    let mut json = Vec::with_capacity(32);
    serde_json::to_writer(&mut json, output)?;
    String::from_utf8(json).map_err(serde::ser::Error::custom)
}

/// A payload, of which the enqueuer has limited the depth.
fn decode<J: Job>(payload: &str) -> Result<J, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(payload);
    deserializer.disable_recursion_limit();
    let job = J::deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(job)
}
