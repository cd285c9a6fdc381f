-- The history of larder's own migrations. Its columns never change, so that any version can read any other's.
CREATE TABLE {migration} (
    version    INTEGER NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT;
