//! `larder cache …`: one key at a time.

mod clear;

use std::time::Duration;

use clap::Subcommand;
use futures::TryStreamExt;
use serde::Serialize;
use serde_json::value::RawValue;

use super::args::{Deadline, json_or_file, name};
use super::failure::{Answer, Failure};
use super::output::{List, Output, instant, one_line, or_dash};
use super::{Context, database, input};
use crate::cache::{Cache, Expiration, Ttl};
use crate::call::Larder;
use crate::queue::Queue;

/// How much white space may surround the longest value.
const SLACK: u64 = 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the JSON of a key; exit 1 where it has none
    Get {
        /// The key
        key: String,
        /// Print what it carries beside its value: deadlines, generation, instants
        #[arg(long)]
        info: bool,
    },
    /// Store JSON; without a deadline, a live item keeps its own
    Set {
        /// The key
        key: String,
        /// The value: JSON, @FILE, or - for standard input
        #[arg(value_name = "JSON|@FILE|-", value_parser = json_or_file, allow_hyphen_values = true)]
        value: String,
        #[command(flatten)]
        deadline: Deadline,
        /// A tag that the item is to carry, in place of those that it has; may be said again
        #[arg(long = "tag", value_name = "T", value_parser = name)]
        tags: Vec<String>,
    },
    /// Store JSON if the key has none; print whether it did, and exit 1 if not
    Add {
        /// The key
        key: String,
        /// The value: JSON, @FILE, or - for standard input
        #[arg(value_name = "JSON|@FILE|-", value_parser = json_or_file, allow_hyphen_values = true)]
        value: String,
        #[command(flatten)]
        deadline: Deadline,
        /// A tag that the item is to carry, in place of those that it has; may be said again
        #[arg(long = "tag", value_name = "T", value_parser = name)]
        tags: Vec<String>,
    },
    /// Delete keys; print how many items there were, live or not, and exit 1 where there was none
    Delete {
        /// The keys
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        /// Enqueue the memoized jobs again that made them, and what was built from them
        #[arg(long)]
        rewarm: bool,
    },
    /// Print whether a key has a live item, and exit 1 if not
    Exists {
        /// The key
        key: String,
    },
    /// Give a live item another deadline; print whether there was one, and exit 1 if not
    #[command(group = clap::ArgGroup::new("one").args(["expires_in", "expires_at", "never"]).required(true))]
    Touch {
        /// The key
        key: String,
        #[command(flatten)]
        deadline: Deadline,
    },
    /// Print the seconds that a live item has left, rounded up, or `never`; exit 1 where there is none
    Ttl {
        /// The key
        key: String,
    },
    /// Add to a counter, and print its new value; a new one starts from 0
    Increment(Count),
    /// Take from a counter, and print its new value; a new one starts from 0
    Decrement(Count),
    /// Print the keys of live items, one a line, in the order of their bytes; a key that holds a line break is told from
    /// two by --json
    Keys {
        /// Only those that begin with this
        #[arg(long, value_name = "P", default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Print counts, bytes and ages
    Stats,
    /// Delete expired items of all namespaces, as the daemon does
    ClearExpired,
    /// Delete every item, after asking
    ClearAll(clear::All),
    /// Delete the items that carry a tag, and what was built from them
    ClearTag {
        /// The tag
        #[arg(value_parser = name)]
        tag: String,
        /// Enqueue the memoized jobs again that made them, the most expensive last; all in one transaction
        #[arg(long)]
        rewarm: bool,
    },
    /// Delete the items whose keys begin with a prefix
    ClearPrefix {
        /// The prefix, not empty
        #[arg(value_parser = name)]
        prefix: String,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Count {
    /// The key
    key: String,
    /// By how much; it may be negative
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_hyphen_values = true
    )]
    by: i64,
    /// A new counter's; a live one keeps its own
    #[command(flatten)]
    deadline: Deadline,
}

impl Command {
    pub(super) fn run(self, context: &mut Context) -> Result<Answer, Failure> {
        if let Self::ClearAll(all) = &self
            && !all.confirmed(&context.loaded)?
        {
            return Ok(Answer::No);
        }
        let settings = &context.loaded.settings;
        let (most, attempts) = (settings.cache.max_value_bytes, settings.jobs.max_attempts);
        // Read before the database is opened: whoever writes to our standard input may take long.
        let value = match &self {
            Self::Set { key, value, .. } | Self::Add { key, value, .. } => {
                let what = format!("the value of key {key:?}");
                Some(input::json(value, &what, most.saturating_add(SLACK))?)
            }
            _ => None,
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let out = &mut context.out;
        database::with(&context.loaded, async |database| {
            let cache = Cache::new(database.clone()).with_max_value_bytes(most);
            let queue = Queue::new(database.clone()).with_max_attempts(attempts);
            let larder = Larder::of(cache, queue);
            self.carry_out(&larder, value.as_deref(), out).await
        })
    }

    async fn carry_out(
        self,
        larder: &Larder,
        value: Option<&RawValue>,
        out: &mut Output,
    ) -> Result<Answer, Failure> {
        let cache = larder.cache();
        let value = value.unwrap_or(RawValue::NULL);
        match self {
            Self::Get { key, info: false } => {
                let found = cache.get::<Box<RawValue>>(&key).await?;
                answer(out, found.as_ref(), |value| value.get().to_owned())
            }
            Self::Get { key, info: true } => info(cache, &key, out).await,
            Self::Set {
                key,
                deadline,
                tags,
                ..
            } => {
                let expiration = deadline.expiration(Expiration::Keep);
                if tags.is_empty() {
                    cache.set_with(&key, value, expiration).await?;
                } else {
                    cache.tagged(tags).set(&key, value, expiration).await?;
                }
                if out.is_json() {
                    out.json(&true)?;
                }
                Ok(Answer::Yes)
            }
            Self::Add {
                key,
                deadline,
                tags,
                ..
            } => {
                let expiration = deadline.expiration(Expiration::Never);
                yes_or_no(out, cache.tagged(tags).add(&key, value, expiration).await?)
            }
            Self::Delete { keys, rewarm: true } => {
                clear::rewarmed(out, &larder.rewarming().delete_many(keys).await?)
            }
            Self::Delete { keys, .. } => {
                let deleted = cache.delete_many(&keys).await?;
                clear::told(out, deleted, "cache items")
            }
            Self::Exists { key } => yes_or_no(out, cache.exists(&key).await?),
            Self::Touch { key, deadline } => {
                let expiration = deadline.expiration(Expiration::Never);
                yes_or_no(out, cache.touch(&key, expiration).await?)
            }
            Self::Ttl { key } => match cache.ttl(&key).await? {
                Some(Ttl::Left(left)) => {
                    out.line(whole_seconds(left))?;
                    Ok(Answer::Yes)
                }
                Some(Ttl::Never) => answer(out, Some("never"), str::to_owned),
                None => answer(out, None::<&str>, str::to_owned),
            },
            Self::Increment(Count { key, by, deadline }) => {
                let expiration = deadline.expiration(Expiration::Never);
                out.line(cache.increment(&key, by, expiration).await?)?;
                Ok(Answer::Yes)
            }
            Self::Decrement(Count { key, by, deadline }) => {
                let expiration = deadline.expiration(Expiration::Never);
                out.line(cache.decrement(&key, by, expiration).await?)?;
                Ok(Answer::Yes)
            }
            Self::Keys { prefix } => keys(cache, &prefix, out).await,
            Self::Stats => stats(cache, out).await,
            Self::ClearExpired => clear::expired(cache, out).await,
            Self::ClearAll(all) => all.run(cache, out).await,
            Self::ClearTag { tag, rewarm: true } => {
                clear::rewarmed(out, &larder.rewarming().clear_tag(&tag).await?)
            }
            Self::ClearTag { tag, .. } => clear::tag(cache, &tag, out).await,
            Self::ClearPrefix { prefix } => clear::prefix(cache, &prefix, out).await,
        }
    }
}

/// What was found, or a miss: `null` as JSON, else nothing.
fn answer<T: Serialize + ?Sized>(
    out: &mut Output,
    found: Option<&T>,
    text: impl FnOnce(&T) -> String,
) -> Result<Answer, Failure> {
    match found {
        Some(found) => out.show(found, text(found))?,
        None if out.is_json() => out.json(&())?,
        None => {}
    }
    Ok(found.is_some().into())
}

fn yes_or_no(out: &mut Output, yes: bool) -> Result<Answer, Failure> {
    out.line(yes)?;
    Ok(yes.into())
}

/// Rounded up, so that a live item never shows 0.
fn whole_seconds(left: Duration) -> u128 {
    left.as_millis().div_ceil(1_000)
}

/// What `get --info` shows.
#[derive(Serialize)]
struct Info {
    stale_at: Option<String>,
    expires_at: Option<String>,
    generation: i64,
    tags: Vec<String>,
    lease: Option<String>,
    last_error: Option<String>,
    job_id: Option<String>,
    failures: u32,
    created_at: String,
    updated_at: String,
}

async fn info(cache: &Cache, key: &str, out: &mut Output) -> Result<Answer, Failure> {
    let info = cache.info(key).await?.map(|info| Info {
        stale_at: info.stale_at.map(instant),
        expires_at: info.expires_at.map(instant),
        generation: info.generation,
        tags: info.tags,
        lease: info.lease_until.map(instant),
        last_error: info.last_error,
        job_id: info.job.map(|job| job.to_string()),
        failures: info.failures,
        created_at: instant(info.created_at),
        updated_at: instant(info.updated_at),
    });
    answer(out, info.as_ref(), |info| {
        let lines = [
            ("stale_at", or_dash(info.stale_at.as_ref())),
            ("expires_at", or_dash(info.expires_at.as_ref())),
            ("generation", info.generation.to_string()),
            (
                "tags",
                or_dash((!info.tags.is_empty()).then(|| info.tags.join(" "))),
            ),
            ("lease", or_dash(info.lease.as_ref())),
            (
                "last_error",
                or_dash(info.last_error.as_deref().map(one_line)),
            ),
            ("job_id", or_dash(info.job_id.as_ref())),
            ("failures", info.failures.to_string()),
            ("created_at", info.created_at.clone()),
            ("updated_at", info.updated_at.clone()),
        ];
        lines
            .map(|(name, value)| format!("{name}: {value}"))
            .join("\n")
    })
}

async fn keys(cache: &Cache, prefix: &str, out: &mut Output) -> Result<Answer, Failure> {
    let mut list = List::new(out);
    let mut keys = std::pin::pin!(cache.keys(prefix));
    while let Some(key) = keys.try_next().await? {
        list.push(&key, &key)?;
    }
    list.end()?;
    Ok(Answer::Yes)
}

#[derive(Serialize)]
struct Stats {
    total: u64,
    expired: u64,
    unexpired: u64,
    forever: u64,
    bytes: u64,
    oldest: Option<String>,
    newest: Option<String>,
}

async fn stats(cache: &Cache, out: &mut Output) -> Result<Answer, Failure> {
    let stats = cache.stats().await?;
    let stats = Stats {
        total: stats.total,
        expired: stats.expired,
        unexpired: stats.unexpired,
        forever: stats.forever,
        bytes: stats.bytes,
        oldest: stats.oldest.map(instant),
        newest: stats.newest.map(instant),
    };
    let lines = [
        format!("Total: {}", stats.total),
        format!("Expired: {}", stats.expired),
        format!("Unexpired: {}", stats.unexpired),
        format!("Forever: {}", stats.forever),
        format!("Bytes: {}", stats.bytes),
        format!("Oldest: {}", or_dash(stats.oldest.as_ref())),
        format!("Newest: {}", or_dash(stats.newest.as_ref())),
    ];
    out.show(&stats, lines.join("\n"))?;
    Ok(Answer::Yes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seconds_that_are_left_are_rounded_up() {
        for (millis, seconds) in [(1, 1), (1_000, 1), (1_001, 2), (59_999, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
    }
}
