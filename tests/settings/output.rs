//! What `config show` prints, and the example file.

use super::*;
use proptest::prelude::*;

#[test]
fn the_effective_settings_show_no_password() {
    let url = "postgres://app:s3cret@db/app?sslmode=require";
    let settings = Given::file("")
        .load(&[("DATABASE_URL", url)])
        .unwrap()
        .settings;
    assert_eq!(settings.database.url, url);
    let shown = [
        settings.to_toml(),
        serde_json::to_string(&settings).unwrap(),
        format!("{settings:?}"),
    ];
    for shown in shown {
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(
            shown.contains("postgres://app:***@db/app?sslmode=require"),
            "{shown}"
        );
    }
}

#[test]
fn as_json_durations_are_text_and_what_is_absent_is_null() {
    let json = serde_json::to_value(settings("[queues.q]")).unwrap();
    assert_eq!(json["worker"]["shutdown_timeout"], "25s");
    assert_eq!(json["worker"]["poll_interval"], json!(null));
    assert_eq!(json["cache"]["max_value_bytes"], "16MiB");
    assert_eq!(
        json["queues"],
        json!({"q": {"concurrency": null, "max_running": null, "rate": null}})
    );
    assert_eq!(json["schedule"]["clear-expired"]["payload"], json!({}));
}

#[test]
fn what_toml_cannot_say_in_a_payload_is_left_out_or_rounded() {
    let mut settings = Settings::default();
    let mut entry = ScheduleSettings::new("j", "@daily");
    entry.payload = json!({"none": null, "list": [null, 1], "large": u64::MAX});
    settings.schedule.insert("a".into(), entry);
    let back = Given::file(settings.to_toml()).load(&[]).unwrap().settings;
    assert_eq!(
        back.schedule["a"].payload,
        json!({"list": [1], "large": 18_446_744_073_709_551_615.0})
    );
}

#[test]
fn the_example_file_changes_nothing() {
    let example = include_str!("../../deploy/larder.example.toml");
    assert_eq!(settings(example), settings(""));
}

#[test]
fn the_example_file_shows_every_setting_and_its_examples_load() {
    let example = include_str!("../../deploy/larder.example.toml");
    let uncommented: Vec<&str> = example
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| !rest.is_empty() && !rest.starts_with(' '))
                .unwrap_or(line)
        })
        .collect();
    let uncommented = uncommented.join("\n");
    let loaded = settings(&uncommented);
    let keys = |toml: &str, section: &[&str]| -> Vec<String> {
        let mut value = &toml::Value::Table(toml.parse().unwrap());
        for part in section {
            value = &value[part];
        }
        let mut keys: Vec<String> = value.as_table().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    for section in [
        &["database"][..],
        &["cache"],
        &["cache", "memory"],
        &["fetch"],
        &["worker"],
        &["jobs"],
        &["jobs", "backoff"],
    ] {
        assert_eq!(
            keys(&uncommented, section),
            keys(&loaded.to_toml(), section)
        );
    }
    for section in [
        &["queues", "reports"],
        &["schedule", "nightly-digest"],
        &["commands", "nightly-report"],
    ] {
        assert_eq!(
            keys(&uncommented, section),
            keys(&loaded.to_toml(), section)
        );
    }
}

fn any_duration(least_ms: u64) -> impl Strategy<Value = Duration> {
    (least_ms..3_000_000_000_000).prop_map(Duration::from_millis)
}

fn any_queue() -> impl Strategy<Value = QueueSettings> {
    let rate = prop::option::of((1..=1_000_000u32, any_duration(1)));
    (
        prop::option::of(1..=10_000usize),
        prop::option::of(1..=1_000_000u32),
        rate,
    )
        .prop_map(|(concurrency, max_running, rate)| {
            let rate = rate.map_or(String::new(), |(limit, per)| {
                format!(
                    "rate = {{ limit = {limit}, per = '{}ms' }}",
                    per.as_millis()
                )
            });
            let mut queue = settings(&format!("[queues.q]\n{rate}")).queues["q"].clone();
            (queue.concurrency, queue.max_running) = (concurrency, max_running);
            queue
        })
}

fn any_entry() -> impl Strategy<Value = ScheduleSettings> {
    let payload = prop::collection::btree_map(
        "\\PC{0,6}",
        prop_oneof![
            any::<i64>().prop_map(|number| json!(number)),
            (-1e9..1e9f64).prop_map(|number| json!(number)),
            "\\PC{0,9}|[\"'\\\\\n]{0,4}".prop_map(|text| json!(text)),
            any::<bool>().prop_map(|truth| json!([truth, {"deep": [1, {}]}])),
        ],
        0..4,
    );
    let options = (
        prop::option::of("\\PC{1,9}"),
        any::<Option<i16>>(),
        prop::option::of(1..=32_767u16),
    );
    (payload, options, any_duration(1), any::<(bool, bool)>()).prop_map(
        |(payload, options, window, (enabled, skip))| {
            let mut entry = ScheduleSettings::new("job", "@daily");
            entry.payload = json!(payload);
            (entry.queue, entry.priority, entry.max_attempts) = options;
            entry.catch_up_window = window;
            entry.enabled = enabled;
            entry.overlap = if skip { Overlap::Skip } else { Overlap::Allow };
            entry.catch_up = if skip { CatchUp::All } else { CatchUp::Once };
            entry
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_config_show_prints_loads_as_the_same_settings(
        (heartbeat, base) in (1..1_000_000_000u64, 1..1_000_000_000u64),
        (shutdown, keep) in (any_duration(0), any_duration(0)),
        poll in prop::option::of(any_duration(1)),
        (bytes, concurrency, connections) in (1..=1_000_000_000u64, 1..=10_000usize, 1..=100_000u32),
        (factor, jitter) in (1.0..1e9f64, 0.0..=1.0f64),
        schema in "[^\"\0]{1,15}",
        prepared: bool,
        queues in prop::collection::btree_map("\\PC{1,9}", any_queue(), 0..3),
        schedule in prop::collection::btree_map("\\PC{1,9}", any_entry(), 0..3),
    ) {
        let mut settings = Settings::default();
        settings.database.schema = schema;
        settings.database.prepared = prepared;
        settings.database.max_connections = connections;
        settings.cache.max_value_bytes = bytes;
        settings.worker.concurrency = concurrency;
        settings.worker.shutdown_timeout = shutdown;
        settings.worker.heartbeat = Duration::from_millis(heartbeat);
        settings.worker.rescue_after = Duration::from_millis(heartbeat * 2);
        settings.worker.poll_interval = poll;
        settings.jobs.keep_done = keep;
        settings.jobs.backoff.base = Duration::from_millis(base);
        settings.jobs.backoff.cap = Duration::from_millis(base);
        (settings.jobs.backoff.factor, settings.jobs.backoff.jitter) = (factor, jitter);
        settings.jobs.max_done = queues.keys().next().map(|name| name.len() as u64);
        settings.queues = queues;
        settings.schedule = schedule;
        let given = Given::file(settings.to_toml());
        let back = Settings::load(Some(&given.path()), []).map_err(|error| error.to_string());
        prop_assert_eq!(back.map(|loaded| loaded.settings), Ok(settings));
    }
}
