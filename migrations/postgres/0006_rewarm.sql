-- How a memoized job's result is made anew. Rewrites nothing.
ALTER TABLE {item}
    -- The job that made the value, as it is to be enqueued again: a JSON object. Null where no job made it.
    ADD COLUMN made_by json,
    -- The job that was enqueued to refresh the value: its handler runs though the value is fresh.
    ADD COLUMN refresh uuid;

-- As it was, but that it spares what the same statement has written: of keys that are set together, one may have been
-- built from another, and its new value was not.
CREATE OR REPLACE FUNCTION {schema}.cached_item_changed() RETURNS trigger LANGUAGE plpgsql AS $$
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
            ) AND (TG_OP = 'DELETE' OR locked.generation <> NEW.generation) ORDER BY locked.key FOR UPDATE
        );
    END IF;
    RETURN NULL;
END
$$;
