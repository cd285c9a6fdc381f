CREATE TABLE {job} (
    id           TEXT    NOT NULL PRIMARY KEY CHECK (length(CAST(id AS BLOB)) = 36),
    name         TEXT    NOT NULL CHECK (length(CAST(name AS BLOB)) BETWEEN 1 AND 255 AND instr(name, char(0)) = 0),
    queue        TEXT    NOT NULL CHECK (length(CAST(queue AS BLOB)) BETWEEN 1 AND 255 AND instr(queue, char(0)) = 0),
    status       TEXT    NOT NULL CHECK (status IN ('queued', 'running', 'done', 'dead', 'cancelled')),
    -- Queued and its time has come. Jobs that wait for their time stay out of the index that workers fetch from.
    due          INTEGER NOT NULL CHECK (due IN (0, 1)),
    priority     INTEGER NOT NULL CHECK (priority BETWEEN -32768 AND 32767),
    attempt      INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL CHECK (max_attempts BETWEEN 1 AND 32767),
    -- How often a drain gave the attempt back.
    released     INTEGER NOT NULL DEFAULT 0,
    unique_key   TEXT             CHECK (length(CAST(unique_key AS BLOB)) BETWEEN 1 AND 512 AND instr(unique_key, char(0)) = 0),
    schedule     TEXT,
    tick         INTEGER,
    run_at       INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    started_at   INTEGER,
    finished_at  INTEGER,
    worker       TEXT,
    error        TEXT,
    payload      TEXT    NOT NULL,
    result       TEXT
) STRICT;

CREATE INDEX job_ready ON {job} (queue, priority DESC, run_at, id) WHERE status = 'queued' AND due;
CREATE INDEX job_waiting ON {job} (run_at) WHERE status = 'queued' AND NOT due;
CREATE INDEX job_running ON {job} (worker) WHERE status = 'running';
CREATE INDEX job_finished ON {job} (status, finished_at) WHERE status IN ('done', 'dead', 'cancelled');
CREATE UNIQUE INDEX job_unique_key ON {job} (name, unique_key)
    WHERE unique_key IS NOT NULL AND status IN ('queued', 'running');

-- One row a running worker process; it is gone when the worker has ended well.
CREATE TABLE {worker} (
    id           TEXT    NOT NULL PRIMARY KEY,
    host         TEXT    NOT NULL,
    process      INTEGER NOT NULL,
    version      TEXT    NOT NULL,
    -- The job names that it knows, a JSON array.
    names        TEXT    NOT NULL,
    started_at   INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL
) STRICT;
