-- PostgreSQL tells processes that keep items in memory what others write. SQLite has nobody to tell, and no such processes.
SELECT 1;
