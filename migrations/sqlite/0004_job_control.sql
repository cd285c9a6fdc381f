-- What is kept of failed attempts, what may be asked of a running job, and what holds for a queue over the fleet.
-- Rewrites nothing; the index of ready jobs is made anew.
ALTER TABLE {job} ADD COLUMN cancelled_at INTEGER;
ALTER TABLE {job} ADD COLUMN progress_done INTEGER;
ALTER TABLE {job} ADD COLUMN progress_total INTEGER;
-- At most `max_running` jobs of a queue that have the same key run at once.
ALTER TABLE {job} ADD COLUMN limit_key TEXT
    CHECK (length(CAST(limit_key AS BLOB)) BETWEEN 1 AND 512 AND instr(limit_key, char(0)) = 0);
ALTER TABLE {job} ADD COLUMN max_running INTEGER CHECK (max_running >= 1);

-- PostgreSQL's types refuse these by themselves. A row that larder cannot read would keep it from reading others.
CREATE TRIGGER job_is_readable BEFORE INSERT ON {job}
WHEN NEW.attempt NOT BETWEEN 0 AND 2147483647 OR NEW.id NOT GLOB
    '[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-'
    || '[0-9a-f][0-9a-f][0-9a-f][0-9a-f]-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]'
BEGIN
    SELECT RAISE(ABORT, 'a job needs a UUID in lower case as its id, and an attempt from 0');
END;

CREATE INDEX job_cancelling ON {job} (worker) WHERE status = 'running' AND cancelled_at IS NOT NULL;
-- Jobs with a key have an index of their own: a thousand of one key must not stand before the next key's first.
DROP INDEX job_ready;
CREATE INDEX job_ready ON {job} (queue, priority DESC, run_at, id)
    WHERE status = 'queued' AND due AND limit_key IS NULL;
CREATE INDEX job_ready_limited ON {job} (queue, limit_key, priority DESC, run_at, id)
    WHERE status = 'queued' AND due AND limit_key IS NOT NULL;

-- The attempts that did not end their job well. One without an error was given back by a drain.
CREATE TABLE {attempt} (
    job        TEXT    NOT NULL,
    attempt    INTEGER NOT NULL,
    worker     TEXT,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER NOT NULL,
    error      TEXT,
    PRIMARY KEY (job, ended_at, attempt)
) STRICT, WITHOUT ROWID;

-- What the fleet knows of a queue; most have no row.
CREATE TABLE {queue} (
    name      TEXT NOT NULL PRIMARY KEY CHECK (length(CAST(name AS BLOB)) BETWEEN 1 AND 255 AND instr(name, char(0)) = 0),
    paused_at INTEGER,
    -- When jobs were started of late, for the queue's rate: a JSON array.
    starts    TEXT
) STRICT;

-- When a worker last had this entry in its file.
ALTER TABLE {schedule} ADD COLUMN seen_at INTEGER;
