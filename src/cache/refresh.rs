//! When a fresh value is refreshed before its time (XFetch: Vattani, Chierichetti and Lowenstein, 2015).

use std::time::Duration;

/// Whether to refresh now a value that stays fresh for `left` and took `cost` to compute. `chance` is drawn evenly from 0
/// exclusive to 1: its negative logarithm is now and then large, so that of many readers an early one refreshes.
pub(super) fn refreshes_early(left: Duration, beta: f64, cost: Duration, chance: f64) -> bool {
    left.as_secs_f64() <= -beta * cost.as_secs_f64() * chance.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_value_is_refreshed_if_and_only_if_its_time_is_within_what_was_drawn(
            left in 0_u64..100_000, beta in 0.0_f64..10.0, cost in 0_u64..100_000, chance in 0.000_001_f64..=1.0
        ) {
            let drawn = -beta * (cost as f64 / 1_000.0) * f64::ln(chance);
            let expected = left as f64 / 1_000.0 <= drawn;
            let left = Duration::from_millis(left);
            prop_assert_eq!(refreshes_early(left, beta, Duration::from_millis(cost), chance), expected);
        }
    }

    #[test]
    fn the_share_of_readers_that_refresh_is_the_one_of_the_paper() {
        // exp(-left / (beta * cost)): at one cost before the end, of 10,000 evenly drawn readers e^-1 of them.
        let share = |left: u64, beta: f64| {
            let cost = Duration::from_secs(2);
            let refreshing = (1..=10_000)
                .filter(|n| {
                    refreshes_early(
                        Duration::from_secs(left),
                        beta,
                        cost,
                        f64::from(*n) / 10_000.0,
                    )
                })
                .count();
            refreshing as f64 / 10_000.0
        };
        assert!((share(2, 1.0) - (-1.0_f64).exp()).abs() < 0.001);
        assert!((share(8, 2.0) - (-2.0_f64).exp()).abs() < 0.001);
        assert!(share(2, 0.0) == 0.0 && share(0, 1.0) == 1.0);
    }
}
