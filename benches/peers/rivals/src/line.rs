//! A line of figures, as `benches/peers/run.sh` reads them: rates by the second, times in microseconds.

use std::time::Duration;

pub fn of_rate(count: u64, all: Duration) -> String {
    format!("{{\"rate\": {:.1}}}", count as f64 / all.as_secs_f64())
}

pub fn of_calls(mut took: Vec<Duration>, all: Duration) -> String {
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_nanos() as f64 / 1e3;
    format!(
        "{{\"rate\": {:.1}, \"median\": {:.2}, \"p99\": {:.2}}}",
        took.len() as f64 / all.as_secs_f64(),
        at(0.5),
        at(0.99)
    )
}
