-- Whether a row is in an index is asked at each change of it. For an IN of more than two words SQLite makes a table and fills
-- it, each time anew: a claim and an outcome did so four times a job. The index is made anew; for as long as that takes,
-- nobody else can write.
DROP INDEX job_finished;
CREATE INDEX job_finished ON {job} (status, finished_at) WHERE status = 'done' OR status = 'dead' OR status = 'cancelled';
