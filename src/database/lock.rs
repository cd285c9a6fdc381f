//! Waiting for SQLite's lock of writers where another process has it.

use std::thread;
use std::time::Duration;

/// SQLite's own wait grows to 100 ms, and misses the short pauses of one who writes much.
const WAIT: Duration = Duration::from_micros(300);
/// Some 5 ms and 60 ms.
const BRIEFLY: i32 = 15;
const PATIENTLY: i32 = 170;

/// For one who may hold up readers and writers while it waits.
pub(super) fn look_again(times: i32) -> bool {
    wait(times, BRIEFLY)
}

/// For one who holds up nobody. Whoever has it for longer is waited for in SQLite's way.
pub(super) fn look_again_patiently(times: i32) -> bool {
    wait(times, PATIENTLY)
}

fn wait(times: i32, most: i32) -> bool {
    if times < most {
        thread::sleep(WAIT);
    }
    times < most
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use rusqlite::Connection;

    use super::super::Database;
    use super::super::here::{Parameter, Written};
    use super::super::sql::Sql;
    use super::*;

    #[test]
    fn a_lock_is_looked_for_again_so_many_times_and_then_left() {
        for (look, most) in [
            (look_again as fn(i32) -> bool, BRIEFLY),
            (look_again_patiently, PATIENTLY),
        ] {
            assert!((0..most).all(look));
            assert!(!look(most));
        }
    }

    // SQLite alone has one writer.
    #[tokio::test]
    async fn who_meets_a_lock_is_left_to_a_thread_that_may_wait_and_then_to_the_pool() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.db");
        let url = format!("sqlite://{}", file.display());
        let database = Database::connect(&url).await.unwrap();
        let other = Connection::open(&file).unwrap();
        let write = || database.write_here(Sql::CachePurgeVacant, &[("$1", &0), ("$2", &1)]);
        assert_eq!(write(), Written::Here);
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(write(), Written::ToWait);
        let patiently = async || {
            let turn = database.turn().await.unwrap();
            let parameters: Vec<Parameter> = vec![("$1", Box::new(0)), ("$2", Box::new(1))];
            database
                .write_patiently(turn, Sql::CachePurgeVacant, parameters)
                .await
                .1
        };
        assert!(!patiently().await, "it is left to the pool after a while");
        let (began, other) = (Arc::new(std::sync::Barrier::new(2)), other);
        let ends = {
            let began = began.clone();
            std::thread::spawn(move || {
                began.wait();
                std::thread::yield_now();
                other.execute_batch("COMMIT").unwrap();
            })
        };
        began.wait();
        assert!(patiently().await);
        ends.join().unwrap();
        database.close().await;
    }
}
