-- How a memoized job's result is made anew. Rewrites nothing.
ALTER TABLE {item}
    -- The job that made the value, as it is to be enqueued again: a JSON object. Null where no job made it.
    ADD COLUMN made_by json,
    -- The job that was enqueued to refresh the value: its handler runs though the value is fresh.
    ADD COLUMN refresh uuid;
