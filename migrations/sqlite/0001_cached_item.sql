CREATE TABLE {item} (
    namespace  TEXT    NOT NULL CHECK (length(CAST(namespace AS BLOB)) <= 128 AND instr(namespace, char(0)) = 0),
    key        TEXT    NOT NULL CHECK (length(CAST(key AS BLOB)) BETWEEN 1 AND 1024 AND instr(key, char(0)) = 0),
    value      TEXT    NOT NULL,
    expires_at INTEGER,
    stale_at   INTEGER,
    -- Drawn anew at every write, so that equality tells whether anybody wrote since.
    generation INTEGER NOT NULL,
    -- Microseconds that computing the value took; NULL where it was not computed by larder.
    cost       INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, key)
) STRICT;

CREATE INDEX cached_item_expires_at ON {item} (expires_at) WHERE expires_at IS NOT NULL;
