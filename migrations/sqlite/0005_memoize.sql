-- What memoization keeps beside a value: who computes it, how that failed of late, and what it was built from.
-- Rewrites nothing; the index is made of the rows without a value, of which there are none yet.

-- A row without a value, which reads as absent and is counted nowhere: its key is being computed, was invalidated by
-- a transaction that others had to see, or is one that others are built from.
ALTER TABLE {item} ADD COLUMN vacant INTEGER NOT NULL DEFAULT 0 CHECK (vacant IN (0, 1));
-- The computation that holds the key's lease, drawn anew for each. Whoever writes or deletes the row ends the lease.
ALTER TABLE {item} ADD COLUMN holder TEXT;
ALTER TABLE {item} ADD COLUMN lease_until INTEGER;
-- The computation that failed last, its error, how many have since the last value, when the next may refresh the
-- item, and until when its error stands for a value.
ALTER TABLE {item} ADD COLUMN failed TEXT;
ALTER TABLE {item} ADD COLUMN last_error TEXT;
ALTER TABLE {item} ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE {item} ADD COLUMN retry_at INTEGER;
ALTER TABLE {item} ADD COLUMN error_until INTEGER;
-- The job that computes it.
ALTER TABLE {item} ADD COLUMN job TEXT;
-- Whether the item has rows below, as one that is tagged or built from others, and as one that others are built from.
ALTER TABLE {item} ADD COLUMN linked INTEGER NOT NULL DEFAULT 0 CHECK (linked IN (0, 1));
ALTER TABLE {item} ADD COLUMN needed INTEGER NOT NULL DEFAULT 0 CHECK (needed IN (0, 1));

CREATE INDEX cached_item_vacant ON {item} (lease_until) WHERE vacant;

-- The tags of an item, and the keys that it was built from.
CREATE TABLE {link} (
    namespace TEXT NOT NULL,
    kind      TEXT NOT NULL CHECK (kind IN ('tag', 'key')),
    name      TEXT NOT NULL CHECK (length(CAST(name AS BLOB)) BETWEEN 1 AND 1024 AND instr(name, char(0)) = 0),
    key       TEXT NOT NULL,
    PRIMARY KEY (namespace, kind, name, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX cached_item_link_key ON {link} (namespace, key);

-- An item that is deleted loses its links, and takes along what was built from it. These are two, since a trigger does
-- not run for the rows that it deletes itself.
CREATE TRIGGER cached_item_unlinked AFTER DELETE ON {item} WHEN OLD.linked BEGIN
    DELETE FROM {link} WHERE namespace = OLD.namespace AND key = OLD.key;
END;
CREATE TRIGGER cached_item_deleted AFTER DELETE ON {item} WHEN OLD.needed BEGIN
    DELETE FROM {item} WHERE namespace = OLD.namespace AND key IN (
        WITH RECURSIVE built (key) AS (
            SELECT link.key FROM {link} AS link
            WHERE link.namespace = OLD.namespace AND link.kind = 'key' AND link.name = OLD.key
            UNION
            SELECT link.key FROM built JOIN {link} AS link
            ON link.namespace = OLD.namespace AND link.kind = 'key' AND link.name = built.key
        )
        SELECT built.key FROM built WHERE built.key <> OLD.key
    );
END;
-- One that is set is built from nothing any more, keeps its tags as long as it lives, and takes along what was built from
-- it. A value that larder computed has a cost, and sees to its links itself.
CREATE TRIGGER cached_item_set AFTER UPDATE OF generation ON {item}
WHEN (OLD.linked OR OLD.needed) AND NEW.generation <> OLD.generation AND NEW.cost IS NULL BEGIN
    DELETE FROM {link} WHERE namespace = OLD.namespace AND key = OLD.key AND (kind = 'key' OR NOT NEW.linked);
    DELETE FROM {item} WHERE OLD.needed AND namespace = OLD.namespace AND key IN (
        WITH RECURSIVE built (key) AS (
            SELECT link.key FROM {link} AS link
            WHERE link.namespace = OLD.namespace AND link.kind = 'key' AND link.name = OLD.key
            UNION
            SELECT link.key FROM built JOIN {link} AS link
            ON link.namespace = OLD.namespace AND link.kind = 'key' AND link.name = built.key
        )
        SELECT built.key FROM built WHERE built.key <> OLD.key
    );
END;
