//! The names of all settings, and the nearest right one to a wrong one.

/// A table of `larder.toml` and the keys that it may hold.
pub(super) struct Shape {
    pub path: &'static [&'static str],
    /// Whether the keys stand in `[path.NAME]`, with a name that the user chooses.
    pub named: bool,
    /// A table within each of these.
    pub within: Option<&'static str>,
    pub keys: &'static [&'static str],
}

pub(super) const SHAPES: &[Shape] = &[
    shape(
        &["database"],
        &[
            "url",
            "busy_timeout",
            "acquire_timeout",
            "max_connections",
            "schema",
            "prepared",
        ],
    ),
    shape(&["cache"], &["max_value_bytes", "lease", "memory"]),
    shape(&["cache", "memory"], &["items", "bytes", "max_staleness"]),
    #[cfg(feature = "fetch")]
    shape(
        &["fetch"],
        &[
            "max_bytes",
            "max_redirects",
            "timeout",
            "connect_timeout",
            "allow_private",
            "fresh_for",
            "keep_for",
        ],
    ),
    shape(
        &["worker"],
        &[
            "concurrency",
            "shutdown_timeout",
            "heartbeat",
            "rescue_after",
            "poll_interval",
        ],
    ),
    shape(
        &["jobs"],
        &[
            "max_attempts",
            "backoff",
            "keep_done",
            "keep_dead",
            "max_done",
            "max_dead",
        ],
    ),
    shape(&["jobs", "backoff"], &["base", "factor", "cap", "jitter"]),
    named(&["queues"], &["concurrency", "max_running", "rate"]),
    within(&["queues"], "rate", &["limit", "per"]),
    named(
        &["schedule"],
        &[
            "job",
            "cron",
            "timezone",
            "catch_up",
            "catch_up_window",
            "overlap",
            "enabled",
            "payload",
            "queue",
            "priority",
            "max_attempts",
        ],
    ),
    named(
        &["commands"],
        &["argv", "timeout", "fresh_for", "stale_for", "max_output"],
    ),
];

const fn shape(path: &'static [&'static str], keys: &'static [&'static str]) -> Shape {
    Shape {
        path,
        named: false,
        within: None,
        keys,
    }
}

const fn named(path: &'static [&'static str], keys: &'static [&'static str]) -> Shape {
    Shape {
        path,
        named: true,
        within: None,
        keys,
    }
}

/// The table `[path.NAME.table]`.
const fn within(
    path: &'static [&'static str],
    table: &'static str,
    keys: &'static [&'static str],
) -> Shape {
    Shape {
        path,
        named: true,
        within: Some(table),
        keys,
    }
}

/// The shape of the table at `path`, if there is such a table.
pub(super) fn shape_at<S: AsRef<str>>(path: &[S]) -> Option<&'static Shape> {
    SHAPES.iter().find(|shape| {
        let named = usize::from(shape.named);
        let within = usize::from(shape.within.is_some());
        path.len() == shape.path.len() + named + within
            && shape.path.iter().zip(path).all(|(a, b)| *a == b.as_ref())
            && shape
                .within
                .is_none_or(|table| path.last().is_some_and(|last| last.as_ref() == table))
    })
}

/// The tables whose entries users name: `queues`, `schedule` and `commands`.
pub(super) fn is_named<S: AsRef<str>>(path: &[S]) -> bool {
    matches!(path, [only] if SHAPES.iter().any(|shape| shape.named && shape.path == [only.as_ref()]))
}

pub(super) fn is_table<S: AsRef<str>>(path: &[S]) -> bool {
    is_named(path) || shape_at(path).is_some()
}

/// What may stand at the top of the file.
pub(super) fn sections() -> Vec<&'static str> {
    SHAPES
        .iter()
        .filter(|shape| shape.path.len() == 1 && shape.within.is_none())
        .map(|shape| shape.path[0])
        .collect()
}

/// The settings whose names are fixed, as dotted names.
pub(super) fn fixed_names() -> Vec<String> {
    let keys = |shape: &'static Shape| {
        shape
            .keys
            .iter()
            .map(|key| format!("{}.{key}", shape.path.join(".")))
    };
    SHAPES
        .iter()
        .filter(|shape| !shape.named)
        .flat_map(keys)
        .collect()
}

/// The likeliest of `right` that somebody meant who wrote `wrong`.
pub(super) fn nearest<'a>(
    wrong: &str,
    right: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let wrong = plain(wrong);
    right
        .into_iter()
        .map(|right| (strsim::jaro_winkler(&wrong, &plain(right)), right))
        .filter(|(likeness, _)| *likeness >= 0.85)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, right)| right)
}

/// The rest of a message about an unknown name: the nearest of `right`, or of the settings elsewhere.
pub(super) fn hint(wrong: &str, right: &[&str]) -> String {
    let elsewhere = fixed_names();
    let elsewhere = || elsewhere.iter().map(String::as_str);
    let last = |name: &str| name.rsplit('.').next() == Some(wrong);
    let near = elsewhere()
        .find(|name| plain(name) == plain(wrong))
        .or_else(|| nearest(wrong, right.iter().copied()))
        .or_else(|| elsewhere().find(|name| last(name)))
        .or_else(|| nearest(wrong, elsewhere()));
    match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("expected one of {}", right.join(", ")),
    }
}

/// A name without case and punctuation, which are what is mistaken most.
fn plain(name: &str) -> String {
    name.to_lowercase()
        .replace(|c: char| !c.is_alphanumeric(), "")
}
