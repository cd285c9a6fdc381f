//! What variables set, and which of them wins.

use super::*;

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
    let given = Given::file("[worker]\nconcurrency = 2\nshutdown_timeout = \"1s\"\n");
    let worker = given
        .load(&[("LARDER_WORKER__SHUTDOWN_TIMEOUT", "10s")])
        .unwrap()
        .settings
        .worker;
    assert_eq!(worker.shutdown_timeout, Duration::from_secs(10));
    assert_eq!(worker.concurrency, 2);
    assert_eq!(worker.heartbeat, Duration::from_secs(5));
}

#[test]
fn every_fixed_setting_can_be_set_in_the_environment() {
    let loaded = from_environment(&[
        ("LARDER_DATABASE__BUSY_TIMEOUT", "1s"),
        ("LARDER_DATABASE__ACQUIRE_TIMEOUT", "2"),
        ("LARDER_DATABASE__MAX_CONNECTIONS", "3"),
        ("LARDER_DATABASE__SCHEMA", "s"),
        ("LARDER_DATABASE__PREPARED", "false"),
        ("LARDER_CACHE__MAX_VALUE_BYTES", "1MiB"),
        ("larder_worker__concurrency", "4"),
        ("LARDER_Worker__Poll_Interval", "5ms"),
        ("LARDER_JOBS__MAX_ATTEMPTS", "5"),
        ("LARDER_JOBS__KEEP_DONE", "1h"),
        ("LARDER_JOBS__BACKOFF__BASE", "9s"),
        ("LARDER_JOBS__BACKOFF__FACTOR", "1.5"),
        ("LARDER_QUEUES__REPORTS__CONCURRENCY", "6"),
        ("LARDER_QUEUES__REPORTS__MAX_RUNNING", "7"),
        ("LARDER_QUEUES__REPORTS__RATE__LIMIT", "100"),
        ("LARDER_QUEUES__REPORTS__RATE__PER", "1m"),
        ("LARDER_JOBS__MAX_DEAD", "9"),
        ("LARDER_SCHEDULE__OWN_ENTRY__JOB", "Report"),
        ("LARDER_SCHEDULE__OWN_ENTRY__CRON", "@daily"),
        (
            "LARDER_SCHEDULE__OWN_ENTRY__PAYLOAD",
            r#"{"a": [1, 0.5, "x"]}"#,
        ),
    ]);
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let settings = loaded.settings;
    assert_eq!(settings.database.busy_timeout, Duration::from_secs(1));
    assert_eq!(settings.database.acquire_timeout, Duration::from_secs(2));
    assert_eq!(settings.database.max_connections, 3);
    assert_eq!(settings.database.schema, "s");
    assert!(!settings.database.prepared);
    assert_eq!(settings.cache.max_value_bytes, 1 << 20);
    assert_eq!(settings.worker.concurrency, 4);
    assert_eq!(
        settings.worker.poll_interval,
        Some(Duration::from_millis(5))
    );
    assert_eq!(settings.jobs.max_attempts, 5);
    assert_eq!(settings.jobs.keep_done, Duration::from_secs(3_600));
    assert_eq!(settings.jobs.backoff.base, Duration::from_secs(9));
    assert!((settings.jobs.backoff.factor - 1.5).abs() < f64::EPSILON);
    assert_eq!(settings.queues["reports"].concurrency, Some(6));
    assert_eq!(settings.queues["reports"].max_running, Some(7));
    let rate = settings.queues["reports"].rate.unwrap();
    assert_eq!((rate.limit, rate.per), (100, Duration::from_secs(60)));
    assert_eq!(
        (settings.jobs.max_done, settings.jobs.max_dead),
        (None, Some(9))
    );
    assert_eq!(settings.schedule["own_entry"].job, "Report");
    assert_eq!(
        settings.schedule["own_entry"].payload,
        json!({"a": [1, 0.5, "x"]})
    );
}

#[test]
fn an_underscore_in_a_variable_fits_the_dash_of_an_entry_that_exists() {
    let given = Given::file(
        "[schedule.Night-Run]\njob = \"j\"\ncron = \"@daily\"\n[schedule.a_b]\njob = \"j\"\ncron = \"@daily\"\n\
         [schedule.a-b]\njob = \"j\"\ncron = \"@daily\"\n[queues.'eu.mail']\n[queues.'x-y']\n[queues.'x.y']\n",
    );
    let env = [
        ("LARDER_SCHEDULE__CLEAR_EXPIRED__ENABLED", "false"),
        ("LARDER_SCHEDULE__NIGHT_RUN__PRIORITY", "5"),
        ("LARDER_SCHEDULE__A_B__PRIORITY", "6"),
        ("LARDER_QUEUES__EU_MAIL__CONCURRENCY", "7"),
    ];
    let settings = given.load(&env).unwrap().settings;
    assert_eq!(settings.schedule.len(), 4);
    assert!(!settings.schedule["clear-expired"].enabled);
    assert_eq!(settings.schedule["Night-Run"].priority, Some(5));
    assert_eq!(
        (
            settings.schedule["a_b"].priority,
            settings.schedule["a-b"].priority
        ),
        (Some(6), None)
    );
    assert_eq!(settings.queues["eu.mail"].concurrency, Some(7));
    assert_eq!(
        given
            .load(&[("LARDER_QUEUES__X_Y__CONCURRENCY", "1")])
            .unwrap_err(),
        "LARDER_QUEUES__X_Y__CONCURRENCY may mean `x-y` or `x.y`: set it in the file, or rename one of them"
    );
}

#[test]
fn the_database_url_comes_from_the_first_of_four_places() {
    let given = Given::file("[database]\nurl = \"sqlite://file.db\"\n");
    let mut env = vec![
        ("LARDER_DATABASE_URL", "sqlite://1"),
        ("DATABASE_URL", "sqlite://2"),
        ("LARDER_DATABASE__URL", "sqlite://3"),
    ];
    for expected in ["sqlite://1", "sqlite://2", "sqlite://3"] {
        let loaded = given.load(&env).unwrap();
        assert_eq!(loaded.settings.database.url, expected);
        assert_eq!(loaded.database_url_from, env[0].0);
        env.remove(0);
    }
    let loaded = given
        .load(&[("LARDER_DATABASE_URL", ""), ("DATABASE_URL", "")])
        .unwrap();
    assert_eq!(loaded.settings.database.url, "sqlite://file.db");
    assert_eq!(
        loaded.database_url_from,
        format!("{}:2", given.path().display())
    );
    assert_eq!(from_environment(&[]).database_url_from, "default");
}

#[test]
fn a_bad_value_in_the_environment_names_the_variable() {
    for (name, value, message) in [
        (
            "LARDER_WORKER__CONCURRENCY",
            "-1",
            "LARDER_WORKER__CONCURRENCY is \"-1\": expected a whole number from 1 to 10000",
        ),
        (
            "LARDER_WORKER__HEARTBEAT",
            "soon",
            "LARDER_WORKER__HEARTBEAT is \"soon\": expected a duration",
        ),
        (
            "LARDER_DATABASE__PREPARED",
            "yes",
            "LARDER_DATABASE__PREPARED is \"yes\": expected true or false",
        ),
        (
            "LARDER_JOBS__BACKOFF__JITTER",
            "NaN",
            "LARDER_JOBS__BACKOFF__JITTER is \"NaN\": expected a number from 0 to 1",
        ),
        (
            "LARDER_CACHE__MAX_VALUE_BYTES",
            "2GiB",
            "LARDER_CACHE__MAX_VALUE_BYTES is \"2GiB\": expected 1B to 1000000000B",
        ),
        (
            "larder_worker__concurrency",
            "x\ny",
            "larder_worker__concurrency is \"x\\ny\": expected a whole number",
        ),
        (
            "LARDER_SCHEDULE__CLEAR_EXPIRED__CRON",
            "often",
            "LARDER_SCHEDULE__CLEAR_EXPIRED__CRON is \"often\": expected a cron expression (",
        ),
        (
            "LARDER_SCHEDULE__CLEAR_EXPIRED__PAYLOAD",
            "{\"a\": null}",
            "LARDER_SCHEDULE__CLEAR_EXPIRED__PAYLOAD is wrong: expected a JSON object without null",
        ),
        (
            "LARDER_SCHEDULE__CLEAR_EXPIRED__PAYLOAD",
            "[1]",
            "LARDER_SCHEDULE__CLEAR_EXPIRED__PAYLOAD is wrong: expected a JSON object",
        ),
    ] {
        let error = error_from_environment(&[(name, value)]);
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn an_unknown_variable_is_only_a_warning() {
    let loaded = from_environment(&[
        ("LARDER_CONFIG", ""),
        ("LARDER_DATABASE_URL", "sqlite://x"),
        ("LARDER_TEST_POSTGRES", "x"),
        ("LARDERS", "x"),
        ("HOME", "/"),
    ]);
    assert_eq!(loaded.warnings, Vec::<String>::new());
    for (name, hint) in [
        ("LARDER_PORT", "no setting has this name"),
        ("LARDER_SERVICE_HOST", "no setting has this name"),
        ("LARDER_PORT_5432_TCP_ADDR", "no setting has this name"),
        ("LARDER_", "no setting has this name"),
        ("LARDER___", "no setting has this name"),
        ("LARDER_WORKER", "no setting has this name"),
        ("LARDER_JOBS__BACKOFF", "no setting has this name"),
        ("LARDER_QUEUES__REPORTS", "no setting has this name"),
        ("LARDER_QUEUES____CONCURRENCY", "no setting has this name"),
        (
            "LARDER_WORKER_CONCURRENCY",
            "did you mean LARDER_WORKER__CONCURRENCY?",
        ),
        (
            "LARDER_WORKER__CONCURENCY",
            "did you mean LARDER_WORKER__CONCURRENCY?",
        ),
        (
            "LARDER_QUEUES__REPORTS__CONCURENCY",
            "did you mean LARDER_QUEUES__REPORTS__CONCURRENCY?",
        ),
        (
            "LARDER_JOBS__BACKOF__BASE",
            "did you mean LARDER_JOBS__BACKOFF__BASE?",
        ),
    ] {
        let loaded = from_environment(&[(name, "s3cret")]);
        assert_eq!(
            loaded.warnings,
            [format!(
                "unknown environment variable {name} is ignored: {hint}"
            )]
        );
        assert!(loaded.settings.queues.is_empty());
    }
    let twice = from_environment(&[
        ("LARDER_WORKER__CONCURRENCY", "1"),
        ("larder_worker__concurrency", "2"),
    ]);
    assert_eq!(twice.settings.worker.concurrency, 1);
    assert_eq!(
        twice.warnings,
        [
            "environment variable larder_worker__concurrency is ignored: LARDER_WORKER__CONCURRENCY says the same"
        ]
    );
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let loaded = from_environment(&[
        ("LARDER_WORKER__CONCURRENCY", ""),
        ("LARDER_SCHEDULE__X__JOB", ""),
    ]);
    assert_eq!(loaded.settings, settings(""));
}
