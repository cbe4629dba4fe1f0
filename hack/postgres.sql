-- The database of the local stack and its roles, made by the superuser as docs/database.md ("Roles, TLS and credentials") has
-- an administrator do it. Run at every start: it mends what is missing, and sets the passwords.
SET client_min_messages = warning;
SELECT 'CREATE ROLE ' || role FROM unnest(ARRAY['dgm', 'dgm_migrate', 'dgm_operator', 'dgm_monitor']) AS role WHERE to_regrole(role) IS NULL \gexec
ALTER ROLE dgm LOGIN CREATEROLE PASSWORD :'dgm_password';
ALTER ROLE dgm_migrate LOGIN PASSWORD :'dgm_migrate_password';
ALTER ROLE dgm_operator LOGIN PASSWORD :'dgm_operator_password';
ALTER ROLE dgm_monitor LOGIN PASSWORD :'dgm_monitor_password';
SELECT 'CREATE DATABASE dgm OWNER dgm' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'dgm') \gexec
\connect dgm
SET client_min_messages = warning;
-- dgm_owner, dgm_service and dgm_readonly, and the schema, which may have been made before there were roles.
\ir ../internal/pgstore/roles.sql
GRANT dgm_owner TO dgm, dgm_migrate;
GRANT dgm_service TO dgm_operator;
GRANT dgm_readonly TO dgm_monitor;
GRANT CREATE ON DATABASE dgm TO dgm_owner;
GRANT pg_read_all_stats TO dgm, dgm_service, dgm_readonly;
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
