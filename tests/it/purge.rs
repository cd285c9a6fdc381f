//! Deleting expired items in short batches.

use larder::Expiration;
use larder::cache::Purge;

use crate::support::both_engines;

both_engines! {
    async fn a_purge_deletes_expired_items_and_leaves_live_ones(db) {
        let cache = db.cache().await;
        assert_eq!(cache.clear_expired().await.unwrap(), 0, "an empty store is fine");
        cache.set_many((0..2_500).map(|n| (format!("old:{n}"), n)), 60).await.unwrap();
        cache.set_many((0..700).map(|n| (format!("young:{n}"), n)), 61).await.unwrap();
        cache.set_many((0..700).map(|n| (format!("forever:{n}"), n)), Expiration::Never).await.unwrap();
        db.advance(60);
        assert_eq!(cache.purge().count().await.unwrap(), 2_500);
        assert_eq!(cache.clear_expired().await.unwrap(), 2_500);
        assert_eq!(cache.clear_expired().await.unwrap(), 0);
        let stats = cache.stats().await.unwrap();
        assert_eq!((stats.total, stats.unexpired, stats.forever), (1_400, 700, 700));
        db.advance(1);
        assert_eq!(cache.purge().all_namespaces().run().await.unwrap(), 700);
    }

    async fn a_purge_tells_its_progress_after_each_batch(db) {
        let cache = db.cache().await;
        cache.set_many((0..2_500).map(|n| (format!("old:{n}"), n)), -1).await.unwrap();
        let mut told = Vec::new();
        assert_eq!(cache.purge().on_progress(|deleted| told.push(deleted)).run().await.unwrap(), 2_500);
        assert!(told.len() > 2, "{told:?}");
        assert!(told.is_sorted(), "{told:?}");
        assert_eq!(told.last(), Some(&2_500));
    }

    async fn a_purge_goes_on_past_what_somebody_keeps(db) {
        let cache = db.cache().await;
        cache.set_many((0..1_200).map(|n| (format!("old:{n}"), n)), -1).await.unwrap();
        let keeps = if db.is_sqlite() {
            "CREATE TRIGGER keep BEFORE DELETE ON cached_item WHEN OLD.key = 'old:3' BEGIN SELECT RAISE(IGNORE); END"
        } else {
            "CREATE FUNCTION {}keep() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN IF OLD.key = 'old:3' THEN RETURN NULL; END IF; RETURN OLD; END $$; \
             CREATE TRIGGER keep BEFORE DELETE ON {}cached_item FOR EACH ROW EXECUTE FUNCTION {}keep()"
        };
        db.execute(keeps).await;
        assert_eq!(cache.purge().run().await.unwrap(), 1_199);
        assert_eq!(cache.purge().run().await.unwrap(), 0);
    }

    async fn a_purge_takes_all_that_is_vacant(db) {
        let cache = db.cache().await;
        let (series, time, yes) = if db.is_sqlite() {
            let series = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 12000)";
            (series, "1795348800000", "1")
        } else {
            let series = "WITH n AS (SELECT generate_series(1, 12000) AS n)";
            (series, "TIMESTAMPTZ '2026-11-22T12:00:00Z'", "TRUE")
        };
        db.execute(&format!(
            "{series} INSERT INTO {{}}cached_item (namespace, key, value, generation, created_at, updated_at, expires_at, vacant) \
             SELECT '', 'key ' || CAST(n AS text), 'null', n, {time}, {time}, {time}, {yes} FROM n"
        ))
        .await;
        assert_eq!(cache.purge().run().await.unwrap(), 0, "nobody sees them");
        assert_eq!(db.execute("DELETE FROM {}cached_item").await, 0);
    }

    async fn whoever_waits_to_write_has_their_turn_between_batches(db) {
        let cache = db.cache().await;
        cache.set_many((0..2_500).map(|n| (format!("old:{n}"), n)), -1).await.unwrap();
        // One of the purge's own process, and one of another.
        let writers = [cache.clone(), db.cache().await];
        let runtime = tokio::runtime::Handle::current();
        let mut batches = 0;
        let purge = cache.purge().on_progress(|_| {
            batches += 1;
            for (name, writer) in ["inside", "outside"].into_iter().zip(&writers) {
                let (writer, (tell, told)) = (writer.clone(), std::sync::mpsc::channel());
                runtime.spawn(async move { tell.send(writer.set(name, &1).await) });
                told.recv_timeout(std::time::Duration::from_secs(9)).expect("the purge holds it up").unwrap();
            }
        });
        assert_eq!(purge.run().await.unwrap(), 2_500);
        assert!(batches > 2, "{batches}");
    }

    async fn a_pool_of_one_connection_is_there_for_others_between_batches(db) {
        let cache = larder::Cache::new(db.options().max_connections(1).connect().await.unwrap());
        cache.set_many((0..2_500).map(|n| (format!("old:{n}"), n)), -1).await.unwrap();
        let (writer, runtime) = (cache.clone(), tokio::runtime::Handle::current());
        let purge = cache.purge().on_progress(|_| {
            let (writer, (tell, told)) = (writer.clone(), std::sync::mpsc::channel());
            runtime.spawn(async move { tell.send(writer.set("new", &1).await) });
            told.recv_timeout(std::time::Duration::from_secs(9)).expect("the purge keeps it").unwrap();
        });
        assert_eq!(purge.run().await.unwrap(), 2_500);
    }

    async fn a_purge_keeps_one_of_many_connections_until_the_pool_is_closed(db) {
        // On SQLite it has connections of its own.
        if db.is_sqlite() {
            return;
        }
        let cache = db.cache().await;
        db.execute("CREATE TABLE {}deleter (process integer PRIMARY KEY)").await;
        db.execute(
            "CREATE FUNCTION {}note() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS \
             $$ BEGIN INSERT INTO {}deleter VALUES (pg_backend_pid()) ON CONFLICT DO NOTHING; RETURN NULL; END $$; \
             CREATE TRIGGER note AFTER DELETE ON {}cached_item FOR EACH ROW EXECUTE FUNCTION {}note()",
        )
        .await;
        // The pool lends in turn those that it has.
        let both = [cache.database().begin().await.unwrap(), cache.database().begin().await.unwrap()];
        for transaction in both {
            transaction.rollback().await.unwrap();
        }
        cache.set_many((0..2_500).map(|n| (format!("old:{n}"), n)), -1).await.unwrap();
        assert_eq!(cache.purge().run().await.unwrap(), 2_500);
        assert_eq!(db.execute("DELETE FROM {}deleter").await, 1);

        cache.set_many((0..2_500).map(|n| (format!("old:{n}"), n)), -1).await.unwrap();
        let (closed, runtime) = (cache.clone(), tokio::runtime::Handle::current());
        let mut closing = None;
        let purge = cache.purge().on_progress(|_| {
            if closing.is_none() {
                let database = closed.database().clone();
                closing = Some(runtime.spawn(async move { database.close().await }));
                let (writer, (tell, told)) = (closed.clone(), std::sync::mpsc::channel());
                runtime.spawn(async move {
                    while writer.set("new", &1).await.is_ok() {}
                    tell.send(())
                });
                told.recv_timeout(std::time::Duration::from_secs(9)).expect("it is not closed");
            }
        });
        purge.run().await.expect_err("it goes on without its pool");
        closing.unwrap().await.unwrap();
    }

    async fn a_purge_of_a_namespace_leaves_the_others_and_what_others_were_built_from(db) {
        let cache = db.cache().await;
        let other = cache.namespace("other").unwrap();
        for cache in [&cache, &other] {
            cache.set_many((0..600).map(|n| (format!("old:{n}"), n)), 60).await.unwrap();
        }
        let memo = other.memoize("whole").depends_on(["old:7"]);
        assert_eq!(memo.get_or_compute(|| async { 1 }).await.unwrap(), 1);
        db.advance(60);
        assert_eq!(other.clear_expired().await.unwrap(), 599);
        assert_eq!(cache.stats().await.unwrap().expired, 600);
        assert_eq!(cache.purge().all_namespaces().run().await.unwrap(), 600);
    }

    async fn a_purge_deletes_what_had_expired_when_it_began(db) {
        let cache = db.cache().await;
        cache.set_many((0..600).map(|n| (format!("old:{n}"), n)), -1).await.unwrap();
        cache.set_with("later", &1, 1).await.unwrap();
        // The clock moves on after the first batch; what expires then is left for the next purge.
        let purge: Purge<'_> = cache.purge().on_progress(|_| db.advance(1));
        assert_eq!(purge.run().await.unwrap(), 600);
        assert_eq!(cache.stats().await.unwrap().expired, 1);
    }

    async fn an_item_that_is_renewed_meanwhile_stays(db) {
        let cache = db.cache().await;
        cache.set_many((0..600).map(|n| (format!("old:{n:03}"), n)), -1).await.unwrap();
        let mut transaction = cache.database().begin().await.unwrap();
        // On SQLite the purge waits for this transaction; on PostgreSQL it passes the row by.
        cache.set_in(&mut transaction, "old:000", &"new", 60).await.unwrap();
        let purge = tokio::spawn({
            let cache = cache.clone();
            async move { cache.clear_expired().await.unwrap() }
        });
        if db.is_sqlite() {
            tokio::task::yield_now().await;
            transaction.commit().await.unwrap();
            assert_eq!(purge.await.unwrap(), 599);
        } else {
            assert_eq!(purge.await.unwrap(), 599);
            transaction.commit().await.unwrap();
        }
        assert_eq!(cache.get::<String>("old:000").await.unwrap().as_deref(), Some("new"));
    }

    async fn a_row_that_somebody_holds_is_left_for_the_next_purge(db) {
        // SQLite has one writer: its purge waits for it, and nobody holds a row.
        if db.is_sqlite() {
            return;
        }
        let cache = db.cache().await;
        cache.set_many([("held", 1), ("free", 2)], -1).await.unwrap();
        let mut transaction = cache.database().begin().await.unwrap();
        cache.add_in(&mut transaction, "held", &3, -1).await.unwrap();
        assert_eq!(cache.purge().all_namespaces().run().await.unwrap(), 1);
        assert_eq!(cache.clear_expired().await.unwrap(), 0);
        transaction.rollback().await.unwrap();
        assert_eq!(cache.clear_expired().await.unwrap(), 1);
    }

    async fn purges_that_run_together_delete_each_item_once(db) {
        let cache = db.cache().await;
        for namespace in ["", "other"] {
            let items = (0..3_000).map(|n| (format!("old:{n}"), n));
            cache.namespace(namespace).unwrap().set_many(items, -1).await.unwrap();
        }
        let purges = (0..4).map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.purge().all_namespaces().run().await.unwrap() })
        });
        let deleted: u64 = futures::future::try_join_all(purges).await.unwrap().iter().sum();
        assert!(deleted <= 6_000, "{deleted}");
        // One that met only rows that another one held ended early; they are gone or left for this one.
        assert_eq!(deleted + cache.purge().all_namespaces().run().await.unwrap(), 6_000);
    }
}
