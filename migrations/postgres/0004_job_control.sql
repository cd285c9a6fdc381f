-- What is kept of failed attempts, what may be asked of a running job, and what holds for a queue over the fleet.
-- Rewrites nothing; the index of ready jobs is made anew, for as long as that takes the table is locked against writes.
ALTER TABLE {job}
    ADD COLUMN cancelled_at   timestamptz,
    ADD COLUMN progress_done  bigint,
    ADD COLUMN progress_total bigint,
    -- At most `max_running` jobs of a queue that have the same key run at once.
    ADD COLUMN limit_key      text COLLATE "C" CHECK (octet_length(limit_key) BETWEEN 1 AND 512),
    ADD COLUMN max_running    integer          CHECK (max_running >= 1);

CREATE INDEX job_cancelling ON {job} (worker) WHERE status = 'running' AND cancelled_at IS NOT NULL;
-- Jobs with a key have an index of their own: a thousand of one key must not stand before the next key's first.
DROP INDEX {schema}.job_ready;
CREATE INDEX job_ready ON {job} (queue, priority DESC, run_at, id)
    WHERE status = 'queued' AND due AND limit_key IS NULL;
CREATE INDEX job_ready_limited ON {job} (queue, limit_key, priority DESC, run_at, id)
    WHERE status = 'queued' AND due AND limit_key IS NOT NULL;

-- The attempts that did not end their job well. One without an error was given back by a drain.
CREATE TABLE {attempt} (
    job        uuid        NOT NULL,
    attempt    integer     NOT NULL,
    worker     uuid,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz NOT NULL,
    error      text,
    PRIMARY KEY (job, ended_at, attempt)
);

-- What the fleet knows of a queue; most have no row.
CREATE TABLE {queue} (
    name      text COLLATE "C" NOT NULL PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 255),
    paused_at timestamptz,
    -- When jobs were started of late, for the queue's rate: a JSON array.
    starts    json
);

-- When a worker last had this entry in its file.
ALTER TABLE {schedule} ADD COLUMN seen_at timestamptz;
