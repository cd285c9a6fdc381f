-- How a memoized job's result is made anew. Rewrites nothing.

-- The job that made the value, as it is to be enqueued again: a JSON object. Null where no job made it.
ALTER TABLE {item} ADD COLUMN made_by TEXT;
-- The job that was enqueued to refresh the value: its handler runs though the value is fresh.
ALTER TABLE {item} ADD COLUMN refresh TEXT;
