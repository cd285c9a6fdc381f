-- Tells processes that keep items in memory what others write. Rewrites nothing; the triggers are made anew, for as long as
-- that takes the table is locked against writes.

-- Until when some process wants to be told, in seconds since 1970. A sequence, since a trigger's condition reads one
-- without a query, and as it is now.
CREATE SEQUENCE {schema}.cached_item_watch AS bigint;
GRANT SELECT ON SEQUENCE {schema}.cached_item_watch TO PUBLIC;

-- As it was, but that it also tells of the row as it was. Nobody keeps one that expired long ago, whatever the clocks; and
-- where others have not heard for so long that the queue of notifications is half full, it tells nobody: what is kept
-- in memory is not kept for long.
CREATE OR REPLACE FUNCTION {schema}.cached_item_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_sequence_last_value({watch}) > date_part('epoch', now())
        AND (OLD.expires_at IS NULL OR OLD.expires_at > now() - interval '1 minute')
        AND pg_notification_queue_usage() < 0.5
    THEN
        PERFORM pg_notify('larder_cache_written', TG_TABLE_SCHEMA || '/' || json_build_array(OLD.namespace, OLD.key));
    END IF;
    IF TG_OP = 'UPDATE' AND (NEW.generation = OLD.generation OR NEW.cost IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    IF NOT (OLD.linked OR OLD.needed) THEN
        RETURN NULL;
    END IF;
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

-- In place of those that there were, and not beside them: each trigger of a table costs every statement on it some
-- microseconds, whether it fires or not.
DROP TRIGGER cached_item_deleted ON {item};
CREATE TRIGGER cached_item_deleted AFTER DELETE ON {item} FOR EACH ROW
    WHEN (OLD.linked OR OLD.needed OR pg_sequence_last_value({watch}) > date_part('epoch', now()))
    EXECUTE FUNCTION {schema}.cached_item_changed();
DROP TRIGGER cached_item_set ON {item};
CREATE TRIGGER cached_item_set
    AFTER UPDATE OF namespace, key, value, expires_at, stale_at, generation ON {item} FOR EACH ROW
    WHEN ((OLD.linked OR OLD.needed) AND NEW.generation <> OLD.generation AND NEW.cost IS NULL
        OR pg_sequence_last_value({watch}) > date_part('epoch', now()))
    EXECUTE FUNCTION {schema}.cached_item_changed();

CREATE FUNCTION {schema}.cached_item_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('larder_cache_written', TG_TABLE_SCHEMA || '/');
    RETURN NULL;
END
$$;
CREATE TRIGGER cached_item_truncated AFTER TRUNCATE ON {item} EXECUTE FUNCTION {schema}.cached_item_truncated();
