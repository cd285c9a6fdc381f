-- PostgreSQL makes an entry of a job's id for each version of its row. SQLite changes the row where it stands.
SELECT 1;
