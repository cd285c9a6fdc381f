//! `larder migrate`.

use crate::support::both_engines;

both_engines! {
    fn migrate_tells_what_it_applied(home) {
        let status = home.run(&["migrate", "--status"]).stdout;
        assert!(status.starts_with("0000 larder_migration pending\n0001 cached_item pending\n"), "{status}");
        let applied = home.run(&["migrate"]).stdout;
        assert!(applied.starts_with("Applied 0000 larder_migration.\n"), "{applied}");
        home.run(&["migrate"]).prints("There is nothing to migrate.\n");
        home.run(&["migrate", "--json"]).prints("[]\n");
        home.run(&["migrate", "--dry-run"]).prints("-- There is nothing to migrate.\n");
        let status = home.json(&["migrate", "--status"]);
        assert!(status.as_array().unwrap().iter().all(|migration| migration["applied"] == true), "{status}");
    }

    fn a_dry_run_changes_nothing(home) {
        let sql = home.run(&["migrate", "--dry-run"]);
        assert_eq!((sql.status, sql.stderr.as_str()), (0, ""));
        assert!(sql.stdout.contains("CREATE TABLE"), "{sql:?}");
        assert!(home.run(&["migrate", "--status"]).stdout.contains("0000 larder_migration pending\n"));
        assert!(!home.path("test.db").exists());
        assert!(home.json(&["migrate", "--dry-run"]).as_str().unwrap().contains("CREATE TABLE"));
        home.run(&["migrate", "--dry-run", "--status"]).fails(&["--dry-run", "--status"]);
    }

    fn the_sql_of_a_dry_run_lays_the_tables(home) {
        let sql = home.run(&["migrate", "--dry-run"]).stdout;
        if home.is_sqlite() {
            home.write("test.db", "");
        }
        home.execute(&sql);
        home.execute("SELECT key FROM {}cached_item; SELECT id FROM {}job; SELECT name FROM {}job_schedule");
    }
}
