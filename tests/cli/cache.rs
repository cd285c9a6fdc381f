//! `larder cache …`.

use std::process::Stdio;
use std::time::Duration;

use larder::{Cache, Expiration};

use crate::support::{Home, PATIENCE, both_engines, text};

/// The item has this many seconds left, or somewhat less: a machine may be slow.
fn is_left(home: &Home, key: &str, seconds: u64) {
    let ended = home.run(&["cache", "ttl", key]);
    let left: u64 = ended.stdout.trim().parse().unwrap();
    assert!(
        ended.status == 0 && (seconds.saturating_sub(60)..=seconds).contains(&left),
        "{ended:?}"
    );
}

both_engines! {
    fn a_value_comes_back_byte_for_byte(home) {
        for value in ["-5", "null", "1e400", r#"{"a": 1 , "a":[1.0]}"#, r#""\u0000 é 日本""#, "\"-x\""] {
            home.run(&["cache", "set", "k", value]).prints("");
            home.run(&["cache", "get", "k"]).prints(&format!("{value}\n"));
            home.run(&["--json", "cache", "get", "k"]).prints(&format!("{value}\n"));
        }
        home.run(&["cache", "set", "schlüssel 🔑", "\"wärt\""]).prints("");
        home.run(&["cache", "get", "schlüssel 🔑"]).prints("\"wärt\"\n");
        home.run(&["cache", "set", "--", "-key", "-1"]).prints("");
        home.run(&["cache", "get", "--", "-key"]).prints("-1\n");
    }

    fn a_value_comes_from_a_file_or_from_standard_input(home) {
        let large = format!("\n [\"{}\"]\n", "x".repeat(1_000_000));
        let file = home.write("large.json", &large);
        home.run(&["cache", "set", "k", &format!("@{}", text(&file))]).prints("");
        home.run(&["cache", "get", "k"]).prints(&format!("{}\n", large.trim()));
        home.run_with_input(&["cache", "add", "j", "-"], b"{\"from\": \"stdin\"}\n").prints("true\n");
        home.run(&["cache", "get", "j"]).prints("{\"from\": \"stdin\"}\n");
    }

    fn a_miss_is_no(home) {
        home.run(&["cache", "get", "k"]).says_no("");
        home.run(&["cache", "get", "k", "--json"]).says_no("null\n");
        home.run(&["cache", "get", "k", "--info"]).says_no("");
        home.run(&["cache", "get", "k", "--info", "--json"]).says_no("null\n");
        home.run(&["cache", "exists", "k"]).says_no("false\n");
        home.run(&["cache", "ttl", "k"]).says_no("");
        home.run(&["cache", "ttl", "k", "--json"]).says_no("null\n");
        home.run(&["cache", "touch", "k", "--never"]).says_no("false\n");
        home.run(&["cache", "delete", "k"]).says_no("Deleted 0 cache items.\n");
        home.run(&["cache", "delete", "k", "--json"]).says_no("{\"deleted\":0}\n");
    }

    fn an_expired_item_is_a_miss_until_it_is_cleared(home) {
        home.run(&["cache", "set", "k", "1", "--expires-in", "-1s"]).prints("");
        home.run(&["cache", "set", "j", "1", "--expires-at", "2001-01-01T00:00:00+01:00"]).prints("");
        home.run(&["cache", "get", "k"]).says_no("");
        home.run(&["cache", "exists", "j"]).says_no("false\n");
        home.run(&["cache", "clear-expired"]).prints("Deleted 2 expired cache items.\n");
        home.run(&["cache", "clear-expired"]).says_no("Deleted 0 expired cache items.\n");
        home.run(&["cache", "clear-expired", "--json"]).says_no("{\"deleted\":0}\n");
    }

    fn set_keeps_a_deadline_unless_it_is_given_one(home) {
        home.run(&["cache", "set", "k", "1", "--expires-in", "1h30m"]).prints("");
        home.run(&["cache", "set", "k", "2"]).prints("");
        is_left(home, "k", 5400);
        assert!(home.json(&["cache", "ttl", "k"]).as_u64().is_some_and(|left| (1..=5400).contains(&left)));
        home.run(&["cache", "set", "k", "3", "--never"]).prints("");
        home.run(&["cache", "ttl", "k"]).prints("never\n");
        home.run(&["cache", "ttl", "k", "--json"]).prints("\"never\"\n");
        home.run(&["cache", "set", "k", "4", "--json"]).prints("true\n");
    }

    fn add_stores_only_where_there_is_nothing(home) {
        home.run(&["cache", "add", "k", "1"]).prints("true\n");
        home.run(&["cache", "add", "k", "2"]).says_no("false\n");
        home.run(&["cache", "get", "k"]).prints("1\n");
        home.run(&["cache", "ttl", "k"]).prints("never\n");
        home.run(&["cache", "exists", "k"]).prints("true\n");
    }

    fn touch_moves_a_deadline(home) {
        home.run(&["cache", "set", "k", "1"]).prints("");
        home.run(&["cache", "touch", "k", "--expires-in", "100"]).prints("true\n");
        is_left(home, "k", 100);
        home.run(&["cache", "touch", "k", "--never"]).prints("true\n");
        home.run(&["cache", "touch", "k", "--expires-in", "-1s"]).prints("true\n");
        home.run(&["cache", "touch", "k", "--never"]).says_no("false\n");
    }

    fn a_counter_counts_both_ways(home) {
        home.run(&["cache", "increment", "c"]).prints("1\n");
        home.run(&["cache", "increment", "c", "--by", "-3"]).prints("-2\n");
        home.run(&["cache", "decrement", "c", "--by=-12"]).prints("10\n");
        home.run(&["cache", "decrement", "c", "--by", "10", "--json"]).prints("0\n");
        home.run(&["cache", "ttl", "c"]).prints("never\n");
        home.run(&["cache", "increment", "d", "--expires-in", "100"]).prints("1\n");
        home.run(&["cache", "increment", "d", "--expires-in", "500"]).prints("2\n");
        is_left(home, "d", 100);
        home.run(&["cache", "set", "d", "\"text\""]).prints("");
        home.run(&["cache", "increment", "d"]).fails(&["\"d\"", "integers of at most 18 digits"]);
    }

    fn info_tells_what_an_item_carries(home) {
        home.run(&["cache", "set", "k", "1", "--expires-at", "2100-01-01T01:00:00+01:00"]).prints("");
        let info = home.json(&["cache", "get", "k", "--info"]);
        assert_eq!(info["expires_at"], "2100-01-01T00:00:00Z");
        assert!(info["generation"].is_i64());
        for absent in ["stale_at", "lease", "last_error", "job_id"] {
            assert!(info[absent].is_null() && info.get(absent).is_some(), "{absent} of {info}");
        }
        assert_eq!(info["tags"], serde_json::json!([]));
        let shown = home.run(&["cache", "get", "k", "--info"]).stdout;
        let names: Vec<_> = shown.lines().map(|line| line.split_once(": ").unwrap().0).collect();
        let expected = ["stale_at", "expires_at", "generation", "tags", "lease", "last_error", "job_id", "failures"];
        assert_eq!(names[..8], expected);
        assert!(shown.starts_with("stale_at: -\nexpires_at: 2100-01-01T00:00:00Z\ngeneration: "), "{shown}");
    }

    fn info_tells_of_a_memoized_item_that_is_refreshed_in_vain(home) {
        home.with_database(async |database| {
            let cache = Cache::new(database);
            let stale = cache.memoize("k").fresh_for(Duration::ZERO).stale_for(Duration::from_secs(600));
            stale.clone().tags(["b", "a"]).get_or_compute(|| async { 1 }).await.unwrap();
            let failing = stale.tags(["b", "a"]).get_or_try_compute(|| async { Err::<i32, _>("no\nluck") });
            assert_eq!(failing.await.unwrap(), 1);
            let failed = async {
                while cache.info("k").await.unwrap().unwrap().last_error.is_none() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, failed).await.unwrap();
        });
        let info = home.json(&["cache", "get", "k", "--info"]);
        assert_eq!((&info["tags"], &info["last_error"]), (&serde_json::json!(["a", "b"]), &"no\nluck".into()));
        assert!(info["stale_at"].as_str().unwrap().ends_with('Z') && info["lease"].is_null(), "{info}");
        let shown = home.run(&["cache", "get", "k", "--info"]).stdout;
        assert!(shown.contains("\ntags: a b\nlease: -\nlast_error: no luck\njob_id: -\nfailures: 1\n"), "{shown}");
        assert_eq!(info["failures"], 1);
    }

    fn a_tag_is_set_and_cleared(home) {
        home.run(&["cache", "set", "a", "1", "--tag", "x", "--tag", "y z"]).prints("");
        home.run(&["cache", "add", "b", "1", "--tag", "x"]).prints("true\n");
        home.run(&["cache", "add", "b", "2", "--tag", "other"]).says_no("false\n");
        home.run(&["cache", "set", "a", "2"]).prints("");
        assert_eq!(home.json(&["cache", "get", "a", "--info"])["tags"], serde_json::json!(["x", "y z"]));
        home.run(&["cache", "set", "a", "2", "--tag", "y"]).prints("");
        home.run(&["cache", "clear-tag", "x"]).prints("Deleted 1 cache items.\n");
        home.run(&["cache", "clear-tag", "y", "--json"]).prints("{\"deleted\":1}\n");
        home.run(&["cache", "clear-tag", "y"]).says_no("Deleted 0 cache items.\n");
        home.run(&["cache", "clear-tag", ""]).fails(&["''", "cache clear-tag --help"]);
        home.run(&["cache", "set", "a", "1", "--tag", &"t".repeat(256)]).fails(&["a tag", "255"]);
        home.run(&["cache", "exists", "a"]).says_no("false\n");
    }

    fn keys_are_listed_in_order_and_by_prefix(home) {
        home.run(&["cache", "keys"]).prints("");
        home.run(&["cache", "keys", "--json"]).prints("[]\n");
        for key in ["b", "a:2", "a:1", "a%", "gone"] {
            home.run(&["cache", "set", key, "1"]).prints("");
        }
        home.run(&["cache", "touch", "gone", "--expires-in", "0"]).prints("true\n");
        home.run(&["cache", "keys"]).prints("a%\na:1\na:2\nb\n");
        home.run(&["cache", "keys", "--prefix", "a:"]).prints("a:1\na:2\n");
        assert_eq!(home.json(&["cache", "keys", "--prefix", "a"]), serde_json::json!(["a%", "a:1", "a:2"]));
    }

    fn many_keys_flow_into_a_pipe_that_may_close(home) {
        home.with_database(async |database| {
            let items = (0..5_000).map(|n| (format!("key {n:05} {}", "x".repeat(100)), n));
            Cache::new(database).set_many(items, Expiration::Never).await.unwrap();
        });
        assert_eq!(home.run(&["cache", "keys"]).stdout.lines().count(), 5_000);
        let mut child = home.larder().args(["cache", "keys"])
            .stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        assert_eq!(output.status.code(), Some(0));
    }

    fn stats_are_plain_digits(home) {
        home.run(&["cache", "stats"])
            .prints("Total: 0\nExpired: 0\nUnexpired: 0\nForever: 0\nBytes: 0\nOldest: -\nNewest: -\n");
        home.run(&["cache", "set", "a", "1"]).prints("");
        home.run(&["cache", "set", "b", "1", "--expires-in", "1h"]).prints("");
        home.run(&["cache", "set", "c", "1", "--expires-in", "-1h"]).prints("");
        let shown = home.run(&["cache", "stats"]).stdout;
        assert!(shown.starts_with("Total: 3\nExpired: 1\nUnexpired: 1\nForever: 1\nBytes: 6\nOldest: 20"), "{shown}");
        let stats = home.json(&["cache", "stats"]);
        assert_eq!((&stats["total"], &stats["bytes"]), (&3.into(), &6.into()));
        assert!(stats["newest"].as_str().unwrap().ends_with('Z'));
    }

    fn clear_prefix_and_delete_tell_how_many(home) {
        for key in ["a:1", "a:2", "b", "c"] {
            home.run(&["cache", "set", key, "1"]).prints("");
        }
        home.run(&["cache", "clear-prefix", "a:"]).prints("Deleted 2 cache items.\n");
        home.run(&["cache", "clear-prefix", "a:"]).says_no("Deleted 0 cache items.\n");
        home.run(&["cache", "clear-prefix", ""]).fails(&["''", "cache clear-prefix --help"]);
        home.run(&["cache", "delete", "b", "c", "d"]).prints("Deleted 2 cache items.\n");
    }

    fn clear_all_wants_a_yes_and_leaves_namespaces_alone(home) {
        home.with_database(async |database| {
            let cache = Cache::new(database);
            cache.set("a", &1).await.unwrap();
            cache.namespace("tenant").unwrap().set("a", &1).await.unwrap();
        });
        home.run(&["cache", "clear-all"]).fails(&["every cache item", "--yes"]);
        home.run_with_input(&["cache", "clear-all"], b"y\n").fails(&["--yes"]);
        home.run(&["cache", "get", "a"]).prints("1\n");
        home.run(&["cache", "clear-all", "--yes"]).prints("Deleted 1 cache items.\n");
        home.run(&["cache", "clear-all", "--yes", "--all-namespaces", "--json"]).prints("{\"deleted\":1}\n");
    }

    fn clear_expired_clears_every_namespace(home) {
        home.with_database(async |database| {
            let tenant = Cache::new(database).namespace("tenant").unwrap();
            tenant.set_with("a", &1, -1).await.unwrap();
        });
        home.run(&["cache", "clear-expired"]).prints("Deleted 1 expired cache items.\n");
    }
}
