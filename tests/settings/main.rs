//! `larder.toml`, the environment and the defaults, as a user of the library sees them.
#![cfg(feature = "fetch")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::time::Duration;

mod commands;
mod environment;
mod errors;
mod fetch;
mod output;

use larder::settings::{
    CatchUp, Loaded, Overlap, QueueSettings, ScheduleDefault, ScheduleSettings, Settings,
};
use serde_json::json;

const DEFAULTS: &[ScheduleDefault] = &[ScheduleDefault {
    name: "clear-expired",
    job: "clear_expired",
    cron: "*/5 * * * *",
}];

struct Given {
    directory: tempfile::TempDir,
}

impl Given {
    fn file(text: impl AsRef<[u8]>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("larder.toml"), text).unwrap();
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("larder.toml")
    }

    fn load(&self, env: &[(&str, &str)]) -> Result<Loaded, String> {
        let loaded = Settings::load_with(DEFAULTS, Some(&self.path()), variables(env));
        for warning in loaded.iter().flat_map(|loaded| &loaded.warnings) {
            assert_is_one_line(warning);
        }
        loaded.map_err(|error| {
            let message = error.to_string();
            assert_is_one_line(&message);
            message.replace(&format!("{}/", self.directory.path().display()), "")
        })
    }
}

fn assert_is_one_line(message: &str) {
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
}

fn variables(env: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    env.iter().map(owned).collect()
}

fn settings(text: &str) -> Settings {
    Given::file(text).load(&[]).unwrap().settings
}

fn error(text: &str) -> String {
    Given::file(text).load(&[]).unwrap_err()
}

fn from_environment(env: &[(&str, &str)]) -> Loaded {
    Given::file("").load(env).unwrap()
}

fn error_from_environment(env: &[(&str, &str)]) -> String {
    Given::file("").load(env).unwrap_err()
}

#[test]
fn without_file_and_environment_the_defaults_hold() {
    let settings = settings("");
    assert_eq!(settings.database.url, "sqlite://larder.db");
    assert_eq!(settings.database.busy_timeout, Duration::from_secs(10));
    assert_eq!(settings.database.acquire_timeout, Duration::from_secs(5));
    assert_eq!(settings.database.max_connections, 10);
    assert_eq!(settings.database.schema, "public");
    assert!(settings.database.prepared);
    assert_eq!(settings.cache.max_value_bytes, 16 * 1024 * 1024);
    assert_eq!(settings.cache.lease, Duration::from_secs(30));
    assert_eq!(settings.cache.memory, None);
    assert_eq!(settings.worker.concurrency, 16);
    assert_eq!(settings.worker.shutdown_timeout, Duration::from_secs(25));
    assert_eq!(settings.worker.heartbeat, Duration::from_secs(5));
    assert_eq!(settings.worker.rescue_after, Duration::from_secs(30));
    assert_eq!(settings.worker.poll_interval, None);
    assert_eq!(settings.jobs.max_attempts, 20);
    assert_eq!(settings.jobs.keep_done, Duration::from_secs(7 * 86_400));
    assert_eq!(settings.jobs.keep_dead, Duration::from_secs(30 * 86_400));
    assert_eq!(settings.jobs.backoff.base, Duration::from_secs(1));
    assert_eq!(settings.jobs.backoff.cap, Duration::from_secs(3_600));
    assert_eq!(
        (settings.jobs.backoff.factor, settings.jobs.backoff.jitter),
        (2.0, 0.2)
    );
    assert!(settings.queues.is_empty());
    assert_eq!(settings.schedule.len(), 1);
    let entry = &settings.schedule["clear-expired"];
    assert_eq!(
        (entry.catch_up, entry.overlap, entry.enabled),
        (CatchUp::Once, Overlap::Skip, true)
    );
}

#[test]
fn every_key_of_the_file_is_read() {
    let settings = settings(
        r#"
        [database]
        url = "postgres://db/app"
        busy_timeout = 1
        acquire_timeout = 2.5
        max_connections = 3
        schema = "my larder"
        prepared = false
        [cache]
        max_value_bytes = 1000
        lease = "1m"
        memory = { items = 5, bytes = "1KiB", max_staleness = "50ms" }
        [worker]
        concurrency = 2
        shutdown_timeout = "1h30m"
        heartbeat = "1s"
        rescue_after = "2s"
        poll_interval = "50ms"
        [jobs]
        max_attempts = 3
        backoff = { base = "2s", factor = 3, cap = "4s", jitter = 0 }
        keep_done = "1d"
        keep_dead = "0s"
        max_done = 100_000
        max_dead = 0
        [queues."rep orts"]
        concurrency = 5
        max_running = 9
        rate = { limit = 3, per = "1.5s" }
        [queues.empty]
        [schedule.digest]
        job = "file_digest"
        cron = "0 6 * * *"
        timezone = "Europe/Berlin"
        catch_up = "all"
        catch_up_window = "2h"
        overlap = "skip"
        enabled = false
        payload = { path = "/x", deep = { list = [1, 2.0, true, 1979-05-27] } }
        queue = "rep orts"
        priority = -7
        max_attempts = 1
        "#,
    );
    assert_eq!(settings.database.url, "postgres://db/app");
    assert_eq!(settings.database.busy_timeout, Duration::from_secs(1));
    assert_eq!(
        settings.database.acquire_timeout,
        Duration::from_millis(2_500)
    );
    assert_eq!(settings.database.max_connections, 3);
    assert_eq!(settings.database.schema, "my larder");
    assert!(!settings.database.prepared);
    assert_eq!(settings.cache.max_value_bytes, 1_000);
    assert_eq!(settings.cache.lease, Duration::from_secs(60));
    let memory = settings.cache.memory.unwrap();
    assert_eq!((memory.items, memory.bytes), (5, 1_024));
    assert_eq!(memory.max_staleness, Duration::from_millis(50));
    assert_eq!(settings.worker.concurrency, 2);
    assert_eq!(settings.worker.shutdown_timeout, Duration::from_secs(5_400));
    assert_eq!(settings.worker.heartbeat, Duration::from_secs(1));
    assert_eq!(settings.worker.rescue_after, Duration::from_secs(2));
    assert_eq!(
        settings.worker.poll_interval,
        Some(Duration::from_millis(50))
    );
    assert_eq!(settings.jobs.max_attempts, 3);
    assert_eq!(settings.jobs.backoff.base, Duration::from_secs(2));
    assert_eq!(settings.jobs.backoff.cap, Duration::from_secs(4));
    assert_eq!(
        (settings.jobs.backoff.factor, settings.jobs.backoff.jitter),
        (3.0, 0.0)
    );
    assert_eq!(settings.jobs.keep_done, Duration::from_secs(86_400));
    assert_eq!(settings.jobs.keep_dead, Duration::ZERO);
    assert_eq!(settings.queues["rep orts"].concurrency, Some(5));
    let limits = settings.queues["rep orts"].limits();
    assert_eq!(limits.max_running, Some(9));
    let per = Duration::from_millis(1_500);
    assert_eq!(limits.rate, Some(larder::queue::Rate { limit: 3, per }));
    let retention = settings.jobs.retention();
    assert_eq!(
        (retention.max_done, retention.max_dead),
        (Some(100_000), Some(0))
    );
    assert_eq!(settings.queues["empty"], QueueSettings::default());
    let mut expected = ScheduleSettings::new("file_digest", "0 6 * * *");
    expected.timezone = "Europe/Berlin".into();
    expected.catch_up = CatchUp::All;
    expected.catch_up_window = Duration::from_secs(7_200);
    expected.overlap = Overlap::Skip;
    expected.enabled = false;
    expected.payload = json!({"path": "/x", "deep": {"list": [1, 2.0, true, "1979-05-27"]}});
    expected.queue = Some("rep orts".into());
    expected.priority = Some(-7);
    expected.max_attempts = Some(1);
    assert_eq!(settings.schedule["digest"], expected);
}

#[test]
fn the_file_is_the_one_asked_for_or_the_one_that_the_environment_names() {
    let (asked, named) = (
        Given::file("[worker]\nconcurrency = 1\n"),
        Given::file("[worker]\nconcurrency = 2\n"),
    );
    let env = || variables(&[("LARDER_CONFIG", named.path().to_str().unwrap())]);
    let loaded = Settings::load(Some(&asked.path()), env()).unwrap();
    assert_eq!(
        (loaded.settings.worker.concurrency, loaded.file),
        (1, Some(asked.path()))
    );
    let loaded = Settings::load(None, env()).unwrap();
    assert_eq!(
        (loaded.settings.worker.concurrency, loaded.file),
        (2, Some(named.path()))
    );
    // Cargo runs tests in the package's directory, which has no larder.toml.
    assert_eq!(Settings::load(None, []).unwrap().file, None);
}

#[test]
fn a_default_entry_changes_only_where_the_file_says_so() {
    let entry = |text: &str| settings(text).schedule["clear-expired"].clone();
    let default = DEFAULTS[0].settings();
    let mut expected = default.clone();
    expected.cron = "@hourly".into();
    expected.queue = Some("maintenance".into());
    assert_eq!(
        entry("[schedule.clear-expired]\ncron = '@hourly'\nqueue = 'maintenance'"),
        expected
    );
    let mut expected = default;
    expected.enabled = false;
    assert_eq!(entry("[schedule.clear-expired]\nenabled = false"), expected);
}

#[test]
fn a_users_entry_skips_missed_ticks_and_allows_overlaps() {
    let entry = settings("[schedule.a]\njob = 'j'\ncron = '@daily'").schedule["a"].clone();
    assert_eq!(entry, ScheduleSettings::new("j", "@daily"));
    assert_eq!(
        (entry.catch_up, entry.overlap),
        (CatchUp::Skip, Overlap::Allow)
    );
    assert_eq!(
        (entry.timezone.as_str(), entry.catch_up_window),
        ("UTC", Duration::from_secs(86_400))
    );
    assert_eq!((entry.enabled, entry.payload), (true, json!({})));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_fine() {
    assert_eq!(
        settings("\u{feff}[worker]\r\nconcurrency = 3\r\n")
            .worker
            .concurrency,
        3
    );
    assert!(error("\r\n\r\n[worker]\r\nconcurrency = 0\r\n").contains("larder.toml:4:"));
}

#[test]
fn memory_is_off_until_anything_is_said_of_it() {
    for text in ["[cache.memory]", "[cache]\nmemory = { items = 10_000 }"] {
        let memory = settings(text).cache.memory.unwrap();
        assert_eq!((memory.items, memory.bytes), (10_000, 64 << 20));
        assert_eq!(memory.max_staleness, Duration::from_secs(1));
    }
    let loaded = from_environment(&[("LARDER_CACHE__MEMORY__BYTES", "1MB")]);
    assert_eq!(loaded.settings.cache.memory.unwrap().bytes, 1_000_000);
}
