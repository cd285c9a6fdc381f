-- How a memoized job's result is made anew. Rewrites nothing.

-- The job that made the value, as it is to be enqueued again: a JSON object. Null where no job made it.
ALTER TABLE {item} ADD COLUMN made_by TEXT;
-- The job that was enqueued to refresh the value: its handler runs though the value is fresh.
ALTER TABLE {item} ADD COLUMN refresh TEXT;

-- The triggers as they were, but for a CROSS JOIN: by it SQLite looks up the links of each key, instead of reading all of
-- them for each step.
DROP TRIGGER cached_item_deleted;
CREATE TRIGGER cached_item_deleted AFTER DELETE ON {item} WHEN OLD.needed BEGIN
    DELETE FROM {item} WHERE namespace = OLD.namespace AND key IN (
        WITH RECURSIVE built (key) AS (
            SELECT link.key FROM {link} AS link
            WHERE link.namespace = OLD.namespace AND link.kind = 'key' AND link.name = OLD.key
            UNION
            SELECT link.key FROM built CROSS JOIN {link} AS link
            WHERE link.namespace = OLD.namespace AND link.kind = 'key' AND link.name = built.key
        )
        SELECT built.key FROM built WHERE built.key <> OLD.key
    );
END;
DROP TRIGGER cached_item_set;
CREATE TRIGGER cached_item_set AFTER UPDATE OF generation ON {item}
WHEN (OLD.linked OR OLD.needed) AND NEW.generation <> OLD.generation AND NEW.cost IS NULL BEGIN
    DELETE FROM {link} WHERE namespace = OLD.namespace AND key = OLD.key AND (kind = 'key' OR NOT NEW.linked);
    DELETE FROM {item} WHERE OLD.needed AND namespace = OLD.namespace AND key IN (
        WITH RECURSIVE built (key) AS (
            SELECT link.key FROM {link} AS link
            WHERE link.namespace = OLD.namespace AND link.kind = 'key' AND link.name = OLD.key
            UNION
            SELECT link.key FROM built CROSS JOIN {link} AS link
            WHERE link.namespace = OLD.namespace AND link.kind = 'key' AND link.name = built.key
        )
        SELECT built.key FROM built WHERE built.key <> OLD.key
    );
END;
