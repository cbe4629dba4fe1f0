-- Who holds locks on tables of schema dgm, or the migration lock (migrationLockID), the oldest transaction first.
SELECT concat_ws(' ', 'pid', l.pid, 'holds', string_agg(DISTINCT coalesce(l.mode || ' on dgm.' || c.relname, 'the migration lock'), ', '),
    '(' || concat_ws(', ', nullif(a.application_name, ''), a.usename, 'transaction since ' || to_char(a.xact_start AT TIME ZONE 'UTC', 'HH24:MI:SS "UTC"')) || ')')
FROM pg_catalog.pg_locks l
LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation AND c.relnamespace = to_regnamespace('dgm') AND c.relkind IN ('r', 'p', 'v', 'm')
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND (c.oid IS NOT NULL OR l.locktype = 'advisory' AND (l.classid, l.objid, l.objsubid) = (1684499807, 1835624306, 1)) AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()) AND l.pid <> pg_backend_pid()
GROUP BY l.pid, a.application_name, a.usename, a.xact_start
ORDER BY a.xact_start NULLS LAST LIMIT 5
