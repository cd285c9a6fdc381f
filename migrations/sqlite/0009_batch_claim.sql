-- What PostgreSQL has of claims of many jobs at once, as far as statements name it. SQLite has one writer, to whom a claim of
-- each job by its own row costs little.
ALTER TABLE {queue} ADD COLUMN claims INTEGER NOT NULL DEFAULT 0;
ALTER TABLE {worker} ADD COLUMN batch_claims INTEGER NOT NULL DEFAULT 0;
