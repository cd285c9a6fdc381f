-- What the fleet knows of each schedule: the definition last loaded, and how far its ticks are dealt with.
CREATE TABLE {schedule} (
    name       TEXT    NOT NULL PRIMARY KEY CHECK (length(CAST(name AS BLOB)) BETWEEN 1 AND 255 AND instr(name, char(0)) = 0),
    definition TEXT    NOT NULL,
    -- Every tick up to this instant is enqueued or passed over.
    until      INTEGER NOT NULL,
    last_tick  INTEGER,
    last_job   TEXT,
    paused_at  INTEGER,
    updated_at INTEGER NOT NULL
) STRICT;
