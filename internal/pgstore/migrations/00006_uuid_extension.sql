-- min-compatible-binary: 5
-- Other services like to call uuid_generate_v4(); nothing here depends on it, and
-- many managed databases do not let an ordinary role create it.
-- +goose Up
-- +goose StatementBegin
DO $$
BEGIN
    CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA dgm;
EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_file OR invalid_parameter_value THEN
    RAISE NOTICE 'The extension uuid-ossp is left out: %. Nothing depends on it.', SQLERRM;
END $$;
-- +goose StatementEnd

-- +goose Down
-- Only what Up made: elsewhere it belongs to somebody else.
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'uuid-ossp' AND extnamespace = 'dgm'::regnamespace) THEN
        DROP EXTENSION "uuid-ossp";
    END IF;
EXCEPTION WHEN insufficient_privilege OR dependent_objects_still_exist THEN
    RAISE NOTICE 'The extension uuid-ossp stays: %.', SQLERRM;
END $$;
-- +goose StatementEnd
