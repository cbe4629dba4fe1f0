-- The roles of schema dgm, and the schema itself. Run by whoever migrates, before
-- migrations, or once by a database administrator. Running it again changes
-- nothing. What may not be done here is said in a NOTICE, and is never an error:
-- a database with one role for all works as well.
-- Roles belong to the whole server: other databases may make them at this moment.
DO $dgm$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['dgm_owner', 'dgm_service', 'dgm_readonly'] LOOP
        CONTINUE WHEN pg_catalog.to_regrole(wanted) IS NOT NULL;
        BEGIN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', wanted);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege OR feature_not_supported THEN
                RAISE NOTICE 'role % is missing and % may not make it: schema dgm works without; a database administrator makes it with: CREATE ROLE % NOLOGIN', wanted, current_user, wanted;
        END;
    END LOOP;
    IF pg_catalog.to_regrole('dgm_owner') IS NULL THEN
        IF pg_catalog.to_regnamespace('dgm') IS NULL THEN
            CREATE SCHEMA dgm;
        END IF;
        RETURN;
    END IF;

    FOR attempt IN 1..50 LOOP
        EXIT WHEN pg_catalog.pg_has_role('dgm_owner', 'USAGE');
        BEGIN
            EXECUTE pg_catalog.format('GRANT dgm_owner TO %I', current_user);
            EXIT;
        EXCEPTION
            WHEN unique_violation OR internal_error THEN PERFORM pg_catalog.pg_sleep(0.01); -- "tuple concurrently updated"
            WHEN insufficient_privilege OR feature_not_supported THEN
                RAISE NOTICE '% is no member of dgm_owner and owns what it makes itself; a database administrator changes that with: GRANT dgm_owner TO %', current_user, current_user;
                EXIT;
        END;
    END LOOP;

    -- An extension and the publication need it, and they can be done without.
    FOR attempt IN 1..50 LOOP
        EXIT WHEN pg_catalog.has_database_privilege('dgm_owner', pg_catalog.current_database(), 'CREATE')
            OR NOT pg_catalog.pg_has_role((SELECT datdba FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()), 'USAGE');
        BEGIN
            EXECUTE pg_catalog.format('GRANT CREATE ON DATABASE %I TO dgm_owner', pg_catalog.current_database());
        EXCEPTION
            WHEN internal_error THEN PERFORM pg_catalog.pg_sleep(0.01);
            WHEN insufficient_privilege OR feature_not_supported THEN EXIT;
        END;
    END LOOP;

    IF pg_catalog.to_regnamespace('dgm') IS NOT NULL THEN
        RETURN;
    END IF;
    -- Not to a role whose rights are not those of whoever runs this: it would lock itself out.
    IF pg_catalog.pg_has_role('dgm_owner', 'USAGE') THEN
        BEGIN
            CREATE SCHEMA dgm AUTHORIZATION dgm_owner;
            RETURN;
        EXCEPTION WHEN insufficient_privilege THEN NULL; -- a member that may not act as dgm_owner
        END;
    END IF;
    CREATE SCHEMA dgm;
END $dgm$;

-- What was made before there were roles belongs to who made it: dgm_owner takes it
-- over, all or nothing.
DO $dgm$
DECLARE
    handed record;
BEGIN
    IF pg_catalog.to_regrole('dgm_owner') IS NULL OR NOT pg_catalog.pg_has_role('dgm_owner', 'USAGE') THEN
        RETURN;
    END IF;
    FOR handed IN
        SELECT pg_catalog.format('SCHEMA %I', nspname) AS object FROM pg_catalog.pg_namespace
        WHERE nspname = 'dgm' AND nspowner <> 'dgm_owner'::pg_catalog.regrole
        UNION ALL
        SELECT pg_catalog.format('TABLE %s', c.oid::pg_catalog.regclass) FROM pg_catalog.pg_class c
        WHERE c.relnamespace = pg_catalog.to_regnamespace('dgm') AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND c.relowner <> 'dgm_owner'::pg_catalog.regrole
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
                AND (d.deptype = 'e' OR c.relkind = 'S' AND d.deptype IN ('a', 'i')))
        UNION ALL
        SELECT pg_catalog.format('ROUTINE %s', p.oid::pg_catalog.regprocedure) FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = pg_catalog.to_regnamespace('dgm') AND p.proowner <> 'dgm_owner'::pg_catalog.regrole
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE pg_catalog.format('ALTER %s OWNER TO dgm_owner', handed.object);
    END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'schema dgm was made by another role and cannot be handed to dgm_owner (%): a database administrator lets % do it with: GRANT % TO %', SQLERRM, current_user,
        (SELECT nspowner::pg_catalog.regrole FROM pg_catalog.pg_namespace WHERE nspname = 'dgm'), current_user;
END $dgm$;
