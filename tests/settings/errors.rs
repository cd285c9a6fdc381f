//! What is wrong is named, in one line.

use super::*;
use proptest::prelude::*;

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let missing = Settings::load(Some("/no/such.toml".as_ref()), [])
        .unwrap_err()
        .to_string();
    assert!(
        missing.starts_with("cannot read /no/such.toml: No such file"),
        "{missing}"
    );
    let env = variables(&[("LARDER_CONFIG", "/no/such.toml")]);
    let missing = Settings::load(None, env).unwrap_err().to_string();
    assert!(
        missing.starts_with("cannot read /no/such.toml, which LARDER_CONFIG names: "),
        "{missing}"
    );
    let binary = Given::file(b"a = \"\xff\"").load(&[]).unwrap_err();
    assert!(
        binary.starts_with("cannot read larder.toml: invalid utf-8"),
        "{binary}"
    );
}

#[test]
fn an_unknown_key_or_section_is_an_error_with_the_nearest_right_one() {
    for (text, message) in [
        (
            "[worker]\n\nconcurency = 3",
            "unknown key `worker.concurency` in larder.toml:3: did you mean `concurrency`?",
        ),
        (
            "[wroker]\nx = 1",
            "unknown section `wroker` in larder.toml:1: did you mean `worker`?",
        ),
        (
            "worker.shutdown-timeout = 3",
            "unknown key `worker.shutdown-timeout` in larder.toml:1: did you mean `shutdown_timeout`?",
        ),
        (
            "concurrency = 3",
            "unknown key `concurrency` in larder.toml:1: did you mean `worker.concurrency`?",
        ),
        (
            "database_url = 'x'",
            "unknown key `database_url` in larder.toml:1: did you mean `database.url`?",
        ),
        (
            "[jobs]\nbackoff = { base = '1s', jiter = 1 }",
            "unknown key `jobs.backoff.jiter` in larder.toml:2: did you mean `jitter`?",
        ),
        (
            "[queues.reports]\nmax_runing = 3",
            "unknown key `queues.reports.max_runing` in larder.toml:2: did you mean `max_running`?",
        ),
        (
            "[queues.reports]\nrate = { limit = 1, pre = '1s' }",
            "unknown key `queues.reports.rate.pre` in larder.toml:2: expected one of limit, per",
        ),
        (
            "[schedule.a]\njob = 'j'\ncorn = '@daily'",
            "unknown key `schedule.a.corn` in larder.toml:3: did you mean `cron`?",
        ),
        (
            "[xyz]",
            "unknown section `xyz` in larder.toml:1: expected one of database, cache, fetch, worker, jobs, queues, schedule",
        ),
        (
            "\"a\\nb\" = 1",
            "unknown key `a\\nb` in larder.toml:1: expected one of",
        ),
    ] {
        let error = error(text);
        assert!(error.starts_with(message), "{text}\n{error}");
    }
}

#[test]
fn a_bad_value_names_the_file_the_key_the_value_and_what_is_expected() {
    for (text, message) in [
        (
            "[worker]\nconcurrency = 0",
            "`worker.concurrency` is 0 in larder.toml:2: expected a whole number from 1 to 10000",
        ),
        (
            "[worker]\nconcurrency = 10001",
            "`worker.concurrency` is 10001 in larder.toml:2: expected a whole",
        ),
        (
            "[worker]\nconcurrency = '4'",
            "`worker.concurrency` is \"4\" in larder.toml:2: expected a whole",
        ),
        (
            "[worker]\nheartbeat = '10 parsecs'",
            "`worker.heartbeat` is \"10 parsecs\" in larder.toml:2: expected a duration in ms, s, m, h, d or w, such as 0.5s",
        ),
        (
            "[worker]\nheartbeat = true",
            "`worker.heartbeat` is true in larder.toml:2: expected a duration",
        ),
        (
            "[worker]\nheartbeat = nan",
            "`worker.heartbeat` is nan in larder.toml:2: expected a duration",
        ),
        (
            "[worker]\nheartbeat = 0",
            "`worker.heartbeat` is 0 in larder.toml:2: expected at least 1ms",
        ),
        (
            "[worker]\npoll_interval = '0.1ms'",
            "`worker.poll_interval` is \"0.1ms\" in larder.toml:2: expected at least",
        ),
        (
            "[worker]\nshutdown_timeout = -1",
            "`worker.shutdown_timeout` is -1 in larder.toml:2: it must not be negative",
        ),
        (
            "[jobs]\nkeep_done = '9999w'",
            "`jobs.keep_done` is \"9999w\" in larder.toml:2: expected at most 36500d",
        ),
        (
            "worker = 3",
            "`worker` is 3 in larder.toml:1: expected a section, [worker]",
        ),
        (
            "[[worker]]\n",
            "`worker` is an array in larder.toml:1: expected a section, [worker]",
        ),
        (
            "queues = 3",
            "`queues` is 3 in larder.toml:1: expected a section, [queues]",
        ),
        (
            "[queues]\nreports = 3",
            "`queues.reports` is 3 in larder.toml:2: expected a section, [queues.reports]",
        ),
        (
            "jobs.backoff = '1s'",
            "`jobs.backoff` is \"1s\" in larder.toml:1: expected a section, [jobs.backoff]",
        ),
        (
            "[queues.a]\nmax_running = 0",
            "`queues.a.max_running` is 0 in larder.toml:2: expected a whole number from 1 to 1000000",
        ),
        (
            "[queues.a]\nrate = 100",
            "`queues.a.rate` is 100 in larder.toml:2: expected a section, [queues.a.rate]",
        ),
        (
            "[queues.a]\nrate = { limit = 0, per = '1m' }",
            "`queues.a.rate.limit` is 0 in larder.toml:2: expected a whole number from 1 to 1000000",
        ),
        (
            "[queues.a.rate]\nlimit = 1\nper = 0",
            "`queues.a.rate.per` is 0 in larder.toml:3: expected at least 1ms",
        ),
        (
            "[queues.a]\nrate = { limit = 1 }",
            "`queues.a.rate` in larder.toml:2 has no `per`: expected a stretch of time, such as \"1m\"",
        ),
        (
            "[queues.a]\n[queues.a.rate]\nper = '1m'",
            "`queues.a.rate` in larder.toml:3 has no `limit`: expected how many jobs may start in it",
        ),
        (
            "[queues.a]\nrate = {}",
            "`queues.a.rate` in larder.toml:2 has no `limit`: expected { limit = 100, per = \"1m\" }",
        ),
        (
            "[jobs]\nmax_done = -1",
            "`jobs.max_done` is -1 in larder.toml:2: expected a whole number from 0",
        ),
        (
            "[jobs.backoff]\nfactor = 0.5",
            "`jobs.backoff.factor` is 0.5 in larder.toml:2: expected a number of at least 1",
        ),
        (
            "[jobs.backoff]\nfactor = inf",
            "`jobs.backoff.factor` is inf in larder.toml:2: expected a number",
        ),
        (
            "[jobs.backoff]\njitter = 1.5",
            "`jobs.backoff.jitter` is 1.5 in larder.toml:2: expected a number from 0 to 1",
        ),
        (
            "[jobs]\nmax_attempts = 32768",
            "`jobs.max_attempts` is 32768 in larder.toml:2: expected a whole number from 1 to 32767",
        ),
        (
            "[database]\nmax_connections = 0",
            "`database.max_connections` is 0 in larder.toml:2: expected a whole",
        ),
        (
            "[database]\nprepared = 'no'",
            "`database.prepared` is \"no\" in larder.toml:2: expected true or false",
        ),
        (
            "[database]\nschema = 'a\"b'",
            "`database.schema` is \"a\\\"b\" in larder.toml:2: expected the name of a PostgreSQL",
        ),
        (
            "[database]\nschema = ''",
            "`database.schema` is \"\" in larder.toml:2: expected the name",
        ),
        (
            "[database]\nurl = 5",
            "`database.url` is wrong in larder.toml:2: expected sqlite://FILE or postgres://",
        ),
        (
            "[cache]\nmax_value_bytes = '16 megs'",
            "`cache.max_value_bytes` is \"16 megs\" in larder.toml:2: expected a size",
        ),
        (
            "[cache]\nlease = 0",
            "`cache.lease` is 0 in larder.toml:2: expected",
        ),
        (
            "[cache.memory]\nitems = 0",
            "`cache.memory.items` is 0 in larder.toml:2: expected",
        ),
        (
            "[cache.memory]\nmax_staleness = '0s'",
            "`cache.memory.max_staleness` is \"0s\" in larder.toml:2: expected",
        ),
        (
            "[cache.memory]\nbytes = 'many'",
            "`cache.memory.bytes` is \"many\" in larder.toml:2: expected a size",
        ),
        (
            "[cache]\nmax_value_bytes = 0",
            "`cache.max_value_bytes` is 0 in larder.toml:2: expected 1B to 1000000000B",
        ),
        (
            "[queues.'a\tb']\n",
            "\"a\\tb\" cannot name a queue in larder.toml:1: expected 1 to 255 bytes",
        ),
        (
            "[queues.'']\n",
            "\"\" cannot name a queue in larder.toml:1: expected 1 to 255 bytes",
        ),
    ] {
        let error = error(text);
        assert!(error.starts_with(message), "{text}\n{error}");
    }
    let long = error(&format!("[database]\nschema = '{}'", "é".repeat(32)));
    assert!(long.contains("1 to 63 bytes"), "{long}");
}

#[test]
fn a_url_where_it_does_not_belong_shows_no_password() {
    assert_eq!(
        error("database = 'postgres://u:s3cret@h/db'"),
        "`database` is \"postgres://u:***@h/db\" in larder.toml:1: expected a section, [database]"
    );
    let env = [(
        "LARDER_DATABASE__MAX_CONNECTIONS",
        "postgres://u:s3cret@h/db",
    )];
    let error = Given::file("").load(&env).unwrap_err();
    assert!(!error.contains("s3cret"), "{error}");
}

#[test]
fn settings_that_contradict_each_other_are_named_together() {
    assert_eq!(
        error("[worker]\nrescue_after = '8s'"),
        "`worker.rescue_after` is 8s and `worker.heartbeat` 5s in larder.toml:2: expected rescue_after to be at least twice \
         heartbeat, so that one late heartbeat does not cost a live worker its jobs"
    );
    let both = Given::file("[worker]\nheartbeat = '1m'")
        .load(&[("LARDER_WORKER__RESCUE_AFTER", "90s")])
        .unwrap_err();
    assert!(
        both.contains("in LARDER_WORKER__RESCUE_AFTER and in larder.toml:2:"),
        "{both}"
    );
    assert_eq!(
        error("[jobs]\nbackoff = { base = '2h' }"),
        "`jobs.backoff.base` is 2h and `jobs.backoff.cap` 1h in larder.toml:2: expected base to be at most cap"
    );
    assert_eq!(
        settings("[worker]\nheartbeat = 4\nrescue_after = 8")
            .worker
            .heartbeat,
        Duration::from_secs(4)
    );
}

#[test]
fn a_bad_schedule_entry_names_the_key_at_fault() {
    let entry = |lines: &str| {
        error(&format!(
            "[schedule.a]\njob = 'j'\ncron = '@daily'\n{lines}"
        ))
    };
    for (lines, message) in [
        (
            "timezone = 'Europe/Berln'",
            "`schedule.a.timezone` is \"Europe/Berln\" in larder.toml:4: expected an IANA timezone",
        ),
        (
            "catch_up = 'twice'",
            "`schedule.a.catch_up` is \"twice\" in larder.toml:4: expected one of skip, once, all",
        ),
        (
            "overlap = true",
            "`schedule.a.overlap` is true in larder.toml:4: expected one of allow, skip",
        ),
        (
            "priority = 32768",
            "`schedule.a.priority` is 32768 in larder.toml:4: expected a whole number from -32768 to 32767",
        ),
        (
            "max_attempts = 0",
            "`schedule.a.max_attempts` is 0 in larder.toml:4: expected a whole number from 1",
        ),
        (
            "catch_up_window = 0",
            "`schedule.a.catch_up_window` is 0 in larder.toml:4: expected at least 1ms",
        ),
        (
            "payload = [1]",
            "`schedule.a.payload` is an array in larder.toml:4: expected a table",
        ),
        (
            "payload = { x = nan }",
            "`schedule.a.payload` is a table in larder.toml:4: JSON has neither nan nor inf",
        ),
        (
            "queue = ''",
            "`schedule.a.queue` is \"\" in larder.toml:4: expected the name of a queue",
        ),
        (
            "enabled = 1",
            "`schedule.a.enabled` is 1 in larder.toml:4: expected true or false",
        ),
    ] {
        let error = entry(lines);
        assert!(error.starts_with(message), "{lines}\n{error}");
    }
    assert!(entry("timezone = 'Europe/Berln'").ends_with("(did you mean Europe/Berlin?)"));
    let cron = error("[schedule.a]\njob = 'j'\ncron = 'often'");
    assert!(
        cron.starts_with(
            "`schedule.a.cron` is \"often\" in larder.toml:3: expected a cron expression ("
        ),
        "{cron}"
    );
    assert_eq!(
        error("[schedule.a]\ncron = '@daily'"),
        "schedule entry `a` in larder.toml:1 has no `job`: expected the name of the job that it enqueues"
    );
    assert_eq!(
        error_from_environment(&[("LARDER_SCHEDULE__A__JOB", "j")]),
        "schedule entry `a` in LARDER_SCHEDULE__A__JOB has no `cron`: expected when, such as \"0 6 * * *\""
    );
}

#[test]
fn a_syntax_error_is_one_line_with_its_place() {
    for (text, place) in [
        ("[worker]\nconcurrency = \n", "larder.toml:2:"),
        ("[worker\n", "larder.toml:1:8:"),
        ("a = 1\na = 2\n", "larder.toml:2:1:"),
        ("x = \"é\" y\n", "larder.toml:1:9:"),
        ("x = 99999999999999999999", "larder.toml:1:5:"),
    ] {
        let error = error(text);
        assert!(
            error.starts_with(&format!("invalid TOML in {place}")),
            "{text}\n{error}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_file_gives_settings_or_one_line(
        text in "(\\[(worker|jobs|queues\\.a|schedule\\.a|x)\\]\n)?(([a-z.\"']{1,9}|\"a\\\\nb\"|concurrency|job|cron) = ([0-9]|\"[a-z]{1,3}\"|[-0-9a-z\"'\\[\\]{}]{1,9})\n){0,3}",
    ) {
        // `Given::load` checks that an error is one line.
        let _ = Given::file(text).load(&[]);
    }

    #[test]
    fn any_environment_gives_settings_or_one_line(
        name in "LARDER_((WORKER|QUEUES|SCHEDULE|JOBS)(__\\PC{0,9}){0,2}(__CONCURRENCY|__CRON|__PAYLOAD)?|(?s).{0,9})",
        value in "\\PC{0,9}|[0-9]{1,3}|[\\x00-\\x1f]{1,2}",
    ) {
        let _ = Given::file("").load(&[(&name, &value)]);
    }
}
