//! From what was written to [`Settings`], with every value checked.

use std::collections::BTreeMap;

use super::duration::format_duration;
use super::schedule::{CatchUp, Overlap, ScheduleDefault, ScheduleSettings};
use super::schema::nearest;
use super::section::{MemorySettings, QueueSettings, RateSettings, Settings};
use super::source::Source;
use super::value::{Found, one_line, quote};
use crate::Error;
use crate::schedule::Cron;

/// SQLite stores no longer text unless it is built to; PostgreSQL's limit is 1 GiB.
const LARGEST_VALUE: u64 = 1_000_000_000;
const MOST_CONCURRENCY: i64 = 10_000;
const MOST_ATTEMPTS: i64 = 32_767;
/// Of what is kept in memory: more than any machine has.
const MOST_ITEMS: i64 = 1_000_000_000;
const MOST_BYTES: u64 = 1 << 50;
/// Of running jobs, and of starts.
const MOST_JOBS: i64 = 1_000_000;

const CATCH_UP: &[(&str, CatchUp)] = &[
    ("skip", CatchUp::Skip),
    ("once", CatchUp::Once),
    ("all", CatchUp::All),
];
const OVERLAP: &[(&str, Overlap)] = &[("allow", Overlap::Allow), ("skip", Overlap::Skip)];

pub(super) fn settings(source: &Source, defaults: &[ScheduleDefault]) -> Result<Settings, Error> {
    let mut settings = Settings::default();
    database(source, &mut settings)?;
    worker(source, &mut settings)?;
    jobs(source, &mut settings)?;
    let limit = &mut settings.cache.max_value_bytes;
    source.read(limit, &["cache", "max_value_bytes"], |found| {
        found.bytes(1, LARGEST_VALUE)
    })?;
    let lease = &mut settings.cache.lease;
    source.read(lease, &["cache", "lease"], Found::positive_duration)?;
    settings.cache.memory = memory(source)?;
    for name in source.names("queues") {
        check_name("queue", "queues", &name, source)?;
        let mut queue = QueueSettings::default();
        source.read(
            &mut queue.concurrency,
            &["queues", &name, "concurrency"],
            |found| concurrency(found).map(Some),
        )?;
        source.read(
            &mut queue.max_running,
            &["queues", &name, "max_running"],
            |found| found.whole(1, MOST_JOBS).map(Some),
        )?;
        queue.rate = rate(source, &name)?;
        settings.queues.insert(name, queue);
    }
    settings.schedule = schedule(source, defaults)?;
    #[cfg(feature = "fetch")]
    super::fetch::read(source, &mut settings)?;
    super::command::read(source, &mut settings)?;
    Ok(settings)
}

/// What is kept in memory: nothing, unless something is said of it.
fn memory(source: &Source) -> Result<Option<MemorySettings>, Error> {
    const ITEMS: &[&str] = &["cache", "memory", "items"];
    const BYTES: &[&str] = &["cache", "memory", "bytes"];
    const MAX_STALENESS: &[&str] = &["cache", "memory", "max_staleness"];
    let mut memory = MemorySettings::default();
    source.read(&mut memory.items, ITEMS, |found| found.whole(1, MOST_ITEMS))?;
    source.read(&mut memory.bytes, BYTES, |found| found.bytes(1, MOST_BYTES))?;
    let time = &mut memory.max_staleness;
    source.read(time, MAX_STALENESS, Found::positive_duration)?;
    let said = [&["cache", "memory"][..], ITEMS, BYTES, MAX_STALENESS];
    let is_on = said.iter().any(|path| source.get(path).is_some());
    Ok(is_on.then_some(memory))
}

/// A rate is whole, whichever of its halves the environment gives.
fn rate(source: &Source, queue: &str) -> Result<Option<RateSettings>, Error> {
    let at = |key: &'static str| ["queues", queue, "rate", key];
    let (mut limit, mut per) = (None, None);
    source.read(&mut limit, &at("limit"), |found| {
        found.whole(1, MOST_JOBS).map(Some)
    })?;
    source.read(&mut per, &at("per"), |found| {
        found.positive_duration().map(Some)
    })?;
    let (there, missing, what) = match (limit, per) {
        (Some(limit), Some(per)) => return Ok(Some(RateSettings { limit, per })),
        (Some(_), None) => ("limit", "per", "a stretch of time, such as \"1m\""),
        (None, Some(_)) => ("per", "limit", "how many jobs may start in it"),
        (None, None) if source.get(&["queues", queue, "rate"]).is_some() => {
            ("", "limit", "{ limit = 100, per = \"1m\" }")
        }
        (None, None) => return Ok(None),
    };
    let place = match there {
        "" => source.places(&[&["queues", queue, "rate"]]),
        there => source.places(&[&at(there)]),
    };
    Err(Error::invalid(one_line(&format!(
        "`queues.{queue}.rate`{place} has no `{missing}`: expected {what}"
    ))))
}

fn database(source: &Source, settings: &mut Settings) -> Result<(), Error> {
    let database = &mut settings.database;
    source.read(&mut database.url, &["database", "url"], Found::url)?;
    source.read(
        &mut database.busy_timeout,
        &["database", "busy_timeout"],
        Found::duration,
    )?;
    source.read(
        &mut database.acquire_timeout,
        &["database", "acquire_timeout"],
        Found::positive_duration,
    )?;
    source.read(
        &mut database.max_connections,
        &["database", "max_connections"],
        |found| found.whole(1, 100_000),
    )?;
    source.read(&mut database.schema, &["database", "schema"], |found| {
        let right = |name: &str| (1..=63).contains(&name.len()) && !name.contains(['\0', '"']);
        found.text(
            "the name of a PostgreSQL schema, 1 to 63 bytes without quotes",
            right,
        )
    })?;
    source.read(
        &mut database.prepared,
        &["database", "prepared"],
        Found::truth,
    )
}

fn worker(source: &Source, settings: &mut Settings) -> Result<(), Error> {
    const HEARTBEAT: &[&str] = &["worker", "heartbeat"];
    const RESCUE_AFTER: &[&str] = &["worker", "rescue_after"];
    let worker = &mut settings.worker;
    source.read(
        &mut worker.concurrency,
        &["worker", "concurrency"],
        concurrency,
    )?;
    source.read(
        &mut worker.shutdown_timeout,
        &["worker", "shutdown_timeout"],
        Found::duration,
    )?;
    source.read(&mut worker.heartbeat, HEARTBEAT, Found::positive_duration)?;
    source.read(
        &mut worker.rescue_after,
        RESCUE_AFTER,
        Found::positive_duration,
    )?;
    source.read(
        &mut worker.poll_interval,
        &["worker", "poll_interval"],
        |found| found.positive_duration().map(Some),
    )?;
    if worker.rescue_after < worker.heartbeat * 2 {
        return Err(Error::invalid(one_line(&format!(
            "`worker.rescue_after` is {} and `worker.heartbeat` {}{}: expected rescue_after to be at least twice heartbeat, \
             so that one late heartbeat does not cost a live worker its jobs",
            format_duration(worker.rescue_after),
            format_duration(worker.heartbeat),
            source.places(&[RESCUE_AFTER, HEARTBEAT]),
        ))));
    }
    Ok(())
}

fn jobs(source: &Source, settings: &mut Settings) -> Result<(), Error> {
    const BASE: &[&str] = &["jobs", "backoff", "base"];
    const CAP: &[&str] = &["jobs", "backoff", "cap"];
    let jobs = &mut settings.jobs;
    source.read(&mut jobs.max_attempts, &["jobs", "max_attempts"], |found| {
        found.whole(1, MOST_ATTEMPTS)
    })?;
    source.read(&mut jobs.keep_done, &["jobs", "keep_done"], Found::duration)?;
    source.read(&mut jobs.keep_dead, &["jobs", "keep_dead"], Found::duration)?;
    for (most, key) in [
        (&mut jobs.max_done, "max_done"),
        (&mut jobs.max_dead, "max_dead"),
    ] {
        source.read(most, &["jobs", key], |found| {
            found.whole(0, i64::MAX).map(Some)
        })?;
    }
    let backoff = &mut jobs.backoff;
    source.read(&mut backoff.base, BASE, Found::positive_duration)?;
    source.read(
        &mut backoff.factor,
        &["jobs", "backoff", "factor"],
        |found| found.number("a number of at least 1", |factor| factor >= 1.0),
    )?;
    source.read(&mut backoff.cap, CAP, Found::positive_duration)?;
    source.read(
        &mut backoff.jitter,
        &["jobs", "backoff", "jitter"],
        |found| {
            found.number("a number from 0 to 1", |jitter| {
                (0.0..=1.0).contains(&jitter)
            })
        },
    )?;
    if backoff.base > backoff.cap {
        return Err(Error::invalid(one_line(&format!(
            "`jobs.backoff.base` is {} and `jobs.backoff.cap` {}{}: expected base to be at most cap",
            format_duration(backoff.base),
            format_duration(backoff.cap),
            source.places(&[BASE, CAP]),
        ))));
    }
    Ok(())
}

fn schedule(
    source: &Source,
    defaults: &[ScheduleDefault],
) -> Result<BTreeMap<String, ScheduleSettings>, Error> {
    let mut schedule = BTreeMap::new();
    for default in defaults {
        schedule.insert(
            default.name.to_owned(),
            entry(source, default.name, Some(default.settings()))?,
        );
    }
    let by_default = |name: &String| defaults.iter().any(|default| default.name == name);
    for name in source
        .names("schedule")
        .into_iter()
        .filter(|name| !by_default(name))
    {
        let read = entry(source, &name, None)?;
        schedule.insert(name, read);
    }
    Ok(schedule)
}

/// One entry: what is written over its default, or over what users' entries have by default.
fn entry(
    source: &Source,
    name: &str,
    default: Option<ScheduleSettings>,
) -> Result<ScheduleSettings, Error> {
    check_name("schedule entry", "schedule", name, source)?;
    if default.is_none() {
        for (key, what) in [
            ("job", "the name of the job that it enqueues"),
            ("cron", "when, such as \"0 6 * * *\""),
        ] {
            if source.get(&["schedule", name, key]).is_none() {
                let place = source.entry_place("schedule", name);
                let message =
                    format!("schedule entry `{name}`{place} has no `{key}`: expected {what}");
                return Err(Error::invalid(one_line(&message)));
            }
        }
    }
    let mut entry = default.unwrap_or_else(|| ScheduleSettings::new("", ""));
    let at = |key: &'static str| ["schedule", name, key];
    source.read(&mut entry.job, &at("job"), |found| {
        found.text("the name of a job", is_name)
    })?;
    source.read(&mut entry.cron, &at("cron"), |found| {
        found.text("a cron expression, such as \"0 6 * * *\"", |_| true)
    })?;
    source.read(&mut entry.timezone, &at("timezone"), timezone)?;
    source.read(&mut entry.catch_up, &at("catch_up"), |found| {
        found.choice(CATCH_UP)
    })?;
    source.read(
        &mut entry.catch_up_window,
        &at("catch_up_window"),
        Found::positive_duration,
    )?;
    source.read(&mut entry.overlap, &at("overlap"), |found| {
        found.choice(OVERLAP)
    })?;
    source.read(&mut entry.enabled, &at("enabled"), Found::truth)?;
    source.read(&mut entry.queue, &at("queue"), |found| {
        found
            .text(
                "the name of a queue, 1 to 255 bytes without control characters",
                is_name,
            )
            .map(Some)
    })?;
    source.read(&mut entry.priority, &at("priority"), |found| {
        found
            .whole(i64::from(i16::MIN), i64::from(i16::MAX))
            .map(Some)
    })?;
    source.read(&mut entry.max_attempts, &at("max_attempts"), |found| {
        found.whole(1, MOST_ATTEMPTS).map(Some)
    })?;
    source.read(&mut entry.payload, &at("payload"), Found::payload)?;
    if let Err(reason) = Cron::parse_in(&entry.cron, &entry.timezone) {
        let reason = format!("expected a cron expression ({reason})");
        return Err(match source.get(&at("cron")) {
            Some(found) => found.wrong(&reason),
            None => Error::invalid(one_line(&format!(
                "`schedule.{name}.cron` is {}: {reason}",
                quote(&entry.cron)
            ))),
        });
    }
    Ok(entry)
}

fn concurrency(found: &Found<'_>) -> Result<usize, Error> {
    found.whole(1, MOST_CONCURRENCY)
}

/// Checked apart from the cron expression, so that the message names the right key.
fn timezone(found: &Found<'_>) -> Result<String, Error> {
    let written = found.text("an IANA timezone, such as \"Europe/Berlin\"", |_| true)?;
    if Cron::parse_in("0 0 * * *", &written).is_ok() {
        return Ok(written);
    }
    let near = nearest(
        &written,
        chrono_tz::TZ_VARIANTS
            .iter()
            .map(|timezone| timezone.name()),
    );
    let near = near.map_or(String::new(), |near| format!(" (did you mean {near}?)"));
    Err(found.expected(&format!(
        "an IANA timezone, such as \"Europe/Berlin\"{near}"
    )))
}

pub(super) fn check_name(
    what: &str,
    section: &str,
    name: &str,
    source: &Source,
) -> Result<(), Error> {
    if is_name(name) {
        return Ok(());
    }
    let (name, place) = (quote(name), source.entry_place(section, name));
    let message = format!(
        "{name} cannot name a {what}{place}: expected 1 to 255 bytes without control characters"
    );
    Err(Error::invalid(one_line(&message)))
}

fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && !name.chars().any(char::is_control)
}
