-- Claims of many jobs by one row, in the place of a change of each job's. Rewrites nothing.

-- A job that is named here runs although its row says queued: for a tenth of a second, after which its row says so, or
-- until it is done. Its attempt is one more than its row says.
CREATE TABLE {claim} (
    id         uuid        NOT NULL PRIMARY KEY,
    worker     uuid        NOT NULL,
    queue      text        NOT NULL COLLATE "C",
    started_at timestamptz NOT NULL,
    jobs       uuid[]      NOT NULL,
    -- Which attempt of each it is.
    attempts   integer[]   NOT NULL,
    -- The place of the least urgent among them: who looks for what comes after it need not know of them.
    priority   smallint    NOT NULL,
    run_at     timestamptz NOT NULL,
    last       uuid        NOT NULL
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_threshold = 1000,
    toast.autovacuum_vacuum_cost_delay = 0
);
-- Ids do not compress. And who looks for those that are in no claim makes a table of them in memory, whatever statistics say:
-- of arrays that are long PostgreSQL 17 would, after a quiet time, expect too many, and read all for each job.
ALTER TABLE {claim} ALTER COLUMN jobs SET STORAGE EXTERNAL, ALTER COLUMN jobs SET STATISTICS 0,
    ALTER COLUMN attempts SET STATISTICS 0;

-- How often many jobs of the queue were claimed by one row. Who had to wait for that sees by it what is not among the rows
-- that were there when its statement began.
ALTER TABLE {queue} ADD COLUMN claims bigint NOT NULL DEFAULT 0;
-- Whether the worker leaves alone what others have claimed so. While one does not, nobody claims so.
ALTER TABLE {worker} ADD COLUMN batch_claims boolean NOT NULL DEFAULT FALSE;
