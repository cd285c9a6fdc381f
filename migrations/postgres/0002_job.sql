CREATE TABLE {job} (
    id           uuid             NOT NULL PRIMARY KEY,
    name         text COLLATE "C" NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 255),
    queue        text COLLATE "C" NOT NULL CHECK (octet_length(queue) BETWEEN 1 AND 255),
    status       text COLLATE "C" NOT NULL CHECK (status IN ('queued', 'running', 'done', 'dead', 'cancelled')),
    -- Queued and its time has come. Jobs that wait for their time stay out of the index that workers fetch from.
    due          boolean          NOT NULL,
    priority     smallint         NOT NULL,
    attempt      integer          NOT NULL DEFAULT 0,
    max_attempts integer          NOT NULL CHECK (max_attempts BETWEEN 1 AND 32767),
    -- How often a drain gave the attempt back.
    released     integer          NOT NULL DEFAULT 0,
    unique_key   text COLLATE "C"          CHECK (octet_length(unique_key) BETWEEN 1 AND 512),
    schedule     text COLLATE "C",
    tick         timestamptz,
    run_at       timestamptz      NOT NULL,
    created_at   timestamptz      NOT NULL,
    started_at   timestamptz,
    finished_at  timestamptz,
    worker       uuid,
    error        text,
    payload      json             NOT NULL,
    result       json
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05
);

CREATE INDEX job_ready ON {job} (queue, priority DESC, run_at, id) WHERE status = 'queued' AND due;
CREATE INDEX job_waiting ON {job} (run_at) WHERE status = 'queued' AND NOT due;
CREATE INDEX job_running ON {job} (worker) WHERE status = 'running';
CREATE INDEX job_finished ON {job} (status, finished_at) WHERE status IN ('done', 'dead', 'cancelled');
CREATE UNIQUE INDEX job_unique_key ON {job} (name, unique_key)
    WHERE unique_key IS NOT NULL AND status IN ('queued', 'running');

-- One row a running worker process; it is gone when the worker has ended well.
CREATE TABLE {worker} (
    id           uuid             NOT NULL PRIMARY KEY,
    host         text             NOT NULL,
    process      integer          NOT NULL,
    version      text             NOT NULL,
    -- The job names that it knows, a JSON array.
    names        json             NOT NULL,
    started_at   timestamptz      NOT NULL,
    heartbeat_at timestamptz      NOT NULL
);
