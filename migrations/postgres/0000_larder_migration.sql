-- The history of larder's own migrations. Its columns never change, so that any version can read any other's.
CREATE TABLE {migration} (
    version    bigint      NOT NULL PRIMARY KEY,
    name       text        NOT NULL,
    applied_at timestamptz NOT NULL
);
