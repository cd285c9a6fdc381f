-- What the fleet knows of each schedule: the definition last loaded, and how far its ticks are dealt with.
CREATE TABLE {schedule} (
    name       text COLLATE "C" NOT NULL PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 255),
    definition json             NOT NULL,
    -- Every tick up to this instant is enqueued or passed over.
    until      timestamptz      NOT NULL,
    last_tick  timestamptz,
    last_job   uuid,
    paused_at  timestamptz,
    updated_at timestamptz      NOT NULL
);
