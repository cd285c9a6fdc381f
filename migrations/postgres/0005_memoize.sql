-- What memoization keeps beside a value: who computes it, how that failed of late, and what it was built from.
-- Rewrites nothing; the index is made of the rows without a value, of which there are none yet.
ALTER TABLE {item}
    -- A row without a value, which reads as absent and is counted nowhere: its key is being computed, was invalidated by
    -- a transaction that others had to see, or is one that others are built from.
    ADD COLUMN vacant      boolean NOT NULL DEFAULT FALSE,
    -- The computation that holds the key's lease, drawn anew for each. Whoever writes or deletes the row ends the lease.
    ADD COLUMN holder      uuid,
    ADD COLUMN lease_until timestamptz,
    -- The computation that failed last, its error, how many have since the last value, when the next may refresh the
    -- item, and until when its error stands for a value.
    ADD COLUMN failed      uuid,
    ADD COLUMN last_error  text,
    ADD COLUMN failures    integer NOT NULL DEFAULT 0,
    ADD COLUMN retry_at    timestamptz,
    ADD COLUMN error_until timestamptz,
    -- The job that computes it.
    ADD COLUMN job         uuid,
    -- Whether the item has rows below, as one that is tagged or built from others, and as one that others are built from.
    ADD COLUMN linked      boolean NOT NULL DEFAULT FALSE,
    ADD COLUMN needed      boolean NOT NULL DEFAULT FALSE;

CREATE INDEX cached_item_vacant ON {item} (lease_until) WHERE vacant;

-- The tags of an item, and the keys that it was built from.
CREATE TABLE {link} (
    namespace text COLLATE "C" NOT NULL,
    kind      text COLLATE "C" NOT NULL CHECK (kind IN ('tag', 'key')),
    name      text COLLATE "C" NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 1024),
    key       text COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace, kind, name, key)
);
CREATE INDEX cached_item_link_key ON {link} (namespace, key);

-- An item that is deleted or set takes along what was built from it. One that is deleted loses its links; one that is set
-- is built from nothing any more, and keeps its tags as long as it lives.
CREATE FUNCTION {schema}.cached_item_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM {link} AS link WHERE link.namespace = OLD.namespace AND link.key = OLD.key
        AND (TG_OP = 'DELETE' OR link.kind = 'key' OR NOT NEW.linked);
    IF OLD.needed THEN
        DELETE FROM {item} AS item WHERE item.namespace = OLD.namespace AND item.key IN (
            SELECT locked.key FROM {item} AS locked WHERE locked.namespace = OLD.namespace AND locked.key IN (
                WITH RECURSIVE built (key) AS (
                    SELECT link.key FROM {link} AS link
                    WHERE link.namespace = OLD.namespace AND link.kind = 'key' AND link.name = OLD.key
                    UNION
                    SELECT link.key FROM built JOIN {link} AS link
                    ON link.namespace = OLD.namespace AND link.kind = 'key' AND link.name = built.key
                )
                SELECT built.key FROM built WHERE built.key <> OLD.key
            ) ORDER BY locked.key FOR UPDATE
        );
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER cached_item_deleted AFTER DELETE ON {item} FOR EACH ROW
    WHEN (OLD.linked OR OLD.needed) EXECUTE FUNCTION {schema}.cached_item_changed();
-- A value that larder computed has a cost, and sees to its links itself.
CREATE TRIGGER cached_item_set AFTER UPDATE OF generation ON {item} FOR EACH ROW
    WHEN ((OLD.linked OR OLD.needed) AND NEW.generation <> OLD.generation AND NEW.cost IS NULL)
    EXECUTE FUNCTION {schema}.cached_item_changed();
