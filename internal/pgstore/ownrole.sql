-- Members of dgm_owner work as dgm_owner once the schema is its own, so that
-- what they make is, too: default privileges follow the role that makes a thing.
SELECT pg_catalog.set_config('role', 'dgm_owner', false)
WHERE EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'dgm' AND nspowner = pg_catalog.to_regrole('dgm_owner'))
    AND pg_catalog.pg_has_role(session_user, pg_catalog.to_regrole('dgm_owner'), 'MEMBER');
