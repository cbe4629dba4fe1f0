-- min-compatible-binary: 5
-- +goose Up
ALTER TABLE dgm.system_configurations
    ADD COLUMN encrypted_value bytea,
    ADD COLUMN key_id text,
    ADD COLUMN default_value text,
    ADD COLUMN is_builtin boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT system_configurations_encrypted CHECK ((encrypted_value IS NULL) = (key_id IS NULL) AND (is_sensitive OR encrypted_value IS NULL));
-- NOT VALID: a row of before may still hold a plain value, which the operator encrypts.
ALTER TABLE dgm.system_configurations
    ADD CONSTRAINT system_configurations_sensitive CHECK (NOT is_sensitive OR (value IS NULL AND default_value IS NULL)) NOT VALID;
COMMENT ON COLUMN dgm.system_configurations.value IS 'Its value, as text; of type value_type; null when is_sensitive.';
COMMENT ON COLUMN dgm.system_configurations.is_sensitive IS 'Whether its value must not be shown: it is in encrypted_value then, and in no other column.';
COMMENT ON COLUMN dgm.system_configurations.is_readonly IS 'Whether only a migration may change it.';
COMMENT ON COLUMN dgm.system_configurations.validation_rules IS 'What a value must satisfy: {"min": n, "max": n, "enum": [...], "pattern": "regular expression", "maxLength": characters}, each optional.';
COMMENT ON COLUMN dgm.system_configurations.constitutional_hash IS 'Constitution that the value was checked against when it was last changed.';
COMMENT ON COLUMN dgm.system_configurations.encrypted_value IS 'Value of a sensitive setting, encrypted with Tink AEAD; the associated data are "system_configurations/" and the key.';
COMMENT ON COLUMN dgm.system_configurations.key_id IS 'Id of the Tink key that encrypted_value is encrypted with.';
COMMENT ON COLUMN dgm.system_configurations.default_value IS 'Value that the setting returns to when nobody asks for another one.';
COMMENT ON COLUMN dgm.system_configurations.is_builtin IS 'Whether a migration brought it: then it cannot be deleted, and its type, rules, flags and default change only by a migration.';

ALTER TABLE dgm.known_constitutions ADD COLUMN configuration_rules jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN dgm.known_constitutions.configuration_rules IS 'What the constitution allows system configurations to be: key to rules, of the form of system_configurations.validation_rules.';

-- +goose StatementBegin
CREATE FUNCTION dgm.configuration_rules_problem(rules jsonb, value_type text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    unknown text;
BEGIN
    IF rules IS NULL THEN
        RETURN NULL;
    ELSIF jsonb_typeof(rules) <> 'object' THEN
        RETURN 'must be an object like {"min": 1, "max": 10}';
    END IF;
    SELECT k INTO unknown FROM jsonb_object_keys(rules) k WHERE k NOT IN ('min', 'max', 'enum', 'pattern', 'maxLength') ORDER BY k LIMIT 1;
    IF unknown IS NOT NULL THEN
        RETURN format('have %s, and may have only min, max, enum, pattern and maxLength', to_json(left(unknown, 100)));
    ELSIF jsonb_typeof(rules -> 'min') <> 'number' OR jsonb_typeof(rules -> 'max') <> 'number' THEN
        RETURN 'need a number for min and max';
    ELSIF (rules ->> 'min')::numeric > (rules ->> 'max')::numeric THEN
        RETURN format('have a min of %s above the max of %s', rules ->> 'min', rules ->> 'max');
    ELSIF rules ?| ARRAY['min', 'max'] AND value_type NOT IN ('integer', 'float') THEN
        RETURN format('have min or max, which only the types integer and float know, not %s', value_type);
    ELSIF jsonb_typeof(rules -> 'enum') <> 'array' OR rules -> 'enum' = '[]' THEN
        RETURN 'need a list with at least one value for enum';
    ELSIF jsonb_typeof(rules -> 'maxLength') <> 'number' OR (rules ->> 'maxLength') !~ '^[0-9]{1,9}$' THEN
        RETURN 'need a whole number, at least 0, for maxLength';
    ELSIF jsonb_typeof(rules -> 'pattern') <> 'string' THEN
        RETURN 'need a string for pattern';
    ELSIF rules ->> 'pattern' ~ '(^|[^\\])(\\\\)*\\[1-9]' THEN -- matching could take for ever
        RETURN 'have a pattern with a back reference, such as \1';
    ELSIF rules ? 'pattern' THEN
        BEGIN
            PERFORM '' ~ (rules ->> 'pattern');
        EXCEPTION WHEN invalid_regular_expression THEN
            RETURN format('have a pattern that is no regular expression: %s', SQLERRM);
        END;
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.configuration_rules_problem(jsonb, text) IS 'What is wrong with validation rules for values of a type (null: of any), in words that follow "the rules"; null when nothing is.';

-- +goose StatementBegin
CREATE FUNCTION dgm.configuration_type_problem(value text, value_type text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF octet_length(value) > 1048576 THEN
        RETURN 'has more than 1 MiB';
    ELSIF value_type = 'integer' THEN
        IF value !~ '^-?[0-9]{1,40}$' OR value::numeric NOT BETWEEN -9223372036854775808 AND 9223372036854775807 THEN
            RETURN 'is not an integer of 64 bits, like 10 or -3';
        END IF;
    ELSIF value_type = 'float' THEN
        IF length(value) > 400 OR value !~ '^-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,3})?$' THEN
            RETURN 'is not a finite decimal, like 0.8 or 1e-3';
        END IF;
        PERFORM value::double precision;
    ELSIF value_type = 'boolean' THEN
        IF value NOT IN ('true', 'false') THEN
            RETURN 'is not true or false';
        END IF;
    ELSIF value_type = 'json' THEN
        PERFORM value::jsonb;
    END IF;
    RETURN NULL;
EXCEPTION
    WHEN numeric_value_out_of_range THEN
        RETURN 'is not a decimal that 64 bits can hold';
    WHEN statement_too_complex THEN
        RETURN 'is JSON that is nested too deeply';
    WHEN data_exception THEN
        RETURN format('is not JSON that PostgreSQL can hold: %s', SQLERRM);
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.configuration_type_problem(text, text) IS 'Why a value is not of a type, in words that follow the value; null when it is.';

-- +goose StatementBegin
CREATE FUNCTION dgm.configuration_rule_problem(value text, value_type text, rules jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    problem text := dgm.configuration_rules_problem(rules, value_type);
BEGIN
    IF problem IS NOT NULL THEN
        RETURN 'cannot be judged: the rules ' || problem;
    ELSIF rules IS NULL OR value IS NULL THEN
        RETURN NULL;
    ELSIF rules ? 'maxLength' AND length(value) > (rules ->> 'maxLength')::integer THEN
        RETURN format('has %s characters, more than maxLength %s', length(value), rules ->> 'maxLength');
    ELSIF rules ? 'pattern' AND value !~ (rules ->> 'pattern') THEN
        RETURN format('does not match the pattern %s', to_json(rules ->> 'pattern'));
    END IF;
    IF rules ? 'min' THEN
        IF value::numeric < (rules ->> 'min')::numeric THEN
            RETURN format('is less than min %s', rules ->> 'min');
        END IF;
    END IF;
    IF rules ? 'max' THEN
        IF value::numeric > (rules ->> 'max')::numeric THEN
            RETURN format('is more than max %s', rules ->> 'max');
        END IF;
    END IF;
    IF rules ? 'enum' AND NOT EXISTS (
        SELECT 1 FROM jsonb_array_elements(rules -> 'enum') e (item) WHERE CASE
            WHEN value_type = 'json' THEN e.item = value::jsonb
            WHEN value_type IN ('integer', 'float') AND jsonb_typeof(e.item) = 'number' THEN (e.item #>> '{}')::numeric = value::numeric
            ELSE e.item #>> '{}' = value END
    ) THEN
        RETURN format('is none of enum %s', left(rules ->> 'enum', 500));
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.configuration_rule_problem(text, text, jsonb) IS 'Why a value, which is of its type, does not satisfy validation rules, in words that follow the value; null when it does.';

-- +goose StatementBegin
CREATE FUNCTION dgm.configuration_problem(key text, value text, value_type text, rules jsonb, OUT kind text, OUT problem text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    shown text := to_json(CASE WHEN length(value) > 100 THEN left(value, 100) || '…' ELSE value END);
    constitution varchar;
    constitution_rules jsonb;
BEGIN
    SELECT c.hash, c.configuration_rules -> configuration_problem.key INTO constitution, constitution_rules FROM dgm.known_constitutions c WHERE c.active;
    IF constitution IS NULL THEN
        kind := 'configuration_constitution';
        problem := 'no constitution is active, so that no configuration may change: make one active in dgm.known_constitutions';
        RETURN;
    END IF;
    kind := 'configuration_type';
    problem := dgm.configuration_type_problem(value, value_type);
    IF problem IS NULL THEN
        kind := 'configuration_rules';
        problem := dgm.configuration_rule_problem(value, value_type, rules) || ', by its rules';
    END IF;
    IF problem IS NULL THEN
        kind := 'configuration_constitution';
        problem := dgm.configuration_rule_problem(value, value_type, constitution_rules) || format(', by the constitution %s', constitution);
    END IF;
    IF problem IS NULL THEN
        kind := NULL;
    ELSE
        problem := format('the value %s %s', coalesce(shown, 'null'), problem);
    END IF;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.configuration_problem(text, text, text, jsonb) IS 'Why a setting may not have a value (kind: configuration_type, configuration_rules or configuration_constitution); nulls when it may. Says nothing of a sensitive one, whose value is null here.';

-- +goose StatementBegin
CREATE FUNCTION dgm.may_migrate(relation oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(current_setting('dgm.migration', true), '') = 'on' AND pg_has_role(current_user, c.relowner, 'MEMBER')
    FROM pg_class c WHERE c.oid = relation
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.may_migrate(oid) IS 'Whether this transaction is a migration: SET LOCAL dgm.migration = ''on'', by a member of the role that owns the table.';

-- +goose StatementBegin
CREATE FUNCTION dgm.is_reencryption(before dgm.system_configurations, after dgm.system_configurations) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(current_setting('dgm.reencryption', true), '') = 'on' AND before.is_sensitive AND after.is_sensitive
        AND (before.key, before.value_type, before.validation_rules, before.is_readonly, before.is_builtin, before.deleted_at)
            IS NOT DISTINCT FROM (after.key, after.value_type, after.validation_rules, after.is_readonly, after.is_builtin, after.deleted_at)
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.is_reencryption(dgm.system_configurations, dgm.system_configurations) IS 'Whether the operator brings a sensitive value, which stays the same, under another key.';

-- What may change at all, whatever the value.
-- +goose StatementBegin
CREATE FUNCTION dgm.check_configuration_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    refused text;
    rule text := 'configuration_builtin';
    revived boolean;
    reencrypted boolean;
BEGIN
    IF dgm.may_migrate(TG_RELID) THEN
        RETURN NEW;
    ELSIF TG_OP = 'INSERT' THEN
        IF NEW.is_builtin THEN
            refused := 'only a migration makes a built-in setting: insert it with is_builtin = false';
        END IF;
    ELSE
        reencrypted := dgm.is_reencryption(OLD, NEW);
        revived := OLD.deleted_at IS NOT NULL AND NEW.deleted_at IS NULL;
        IF NEW.key IS DISTINCT FROM OLD.key THEN
            refused := 'a key is not renamed: insert a row with the new key';
        ELSIF NEW.is_builtin IS DISTINCT FROM OLD.is_builtin THEN
            refused := 'is_builtin changes only by a migration';
        ELSIF OLD.is_builtin AND (NEW.value_type, NEW.validation_rules, NEW.is_sensitive, NEW.is_readonly, NEW.default_value)
            IS DISTINCT FROM (OLD.value_type, OLD.validation_rules, OLD.is_sensitive, OLD.is_readonly, OLD.default_value) THEN
            refused := 'type, rules, flags and default of a built-in setting change only by a migration: set its value alone';
        ELSIF OLD.is_builtin AND NEW.deleted_at IS NOT NULL AND OLD.deleted_at IS NULL THEN
            refused := format('a built-in setting cannot be deleted: set its value to its default, %s', coalesce(to_json(OLD.default_value)::text, 'which it has not'));
        ELSIF OLD.is_builtin AND NOT OLD.is_sensitive AND NEW.value IS NULL AND OLD.value IS NOT NULL THEN
            refused := format('a built-in setting needs a value: set its default, %s', coalesce(to_json(OLD.default_value)::text, 'which it has not'));
        END IF;
        IF refused IS NULL AND OLD.is_readonly AND NOT reencrypted AND ((NEW.value, NEW.encrypted_value, NEW.value_type, NEW.validation_rules, NEW.default_value, NEW.deleted_at)
            IS DISTINCT FROM (OLD.value, OLD.encrypted_value, OLD.value_type, OLD.validation_rules, OLD.default_value, OLD.deleted_at)
            OR NOT NEW.is_readonly) THEN
            rule := 'configuration_readonly';
            refused := 'it is read-only: only a migration changes it';
        ELSIF refused IS NULL AND OLD.is_sensitive AND NOT NEW.is_sensitive AND NOT revived THEN
            rule := 'configuration_sensitive';
            refused := 'it is sensitive and stays so: to have it in plain, delete it first (its SystemConfiguration, or the row), then make it anew';
        ELSIF refused IS NULL AND OLD.deleted_at IS NOT NULL AND NOT revived AND NEW.value IS DISTINCT FROM OLD.value THEN
            rule := 'configuration_deleted';
            refused := format('it was deleted at %s, so that its value has no effect: set deleted_at = NULL as well to have it back', OLD.deleted_at);
        END IF;
    END IF;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'configuration %: %', to_json(left(coalesce(NEW.key, ''), 100)), refused
            USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = rule;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.check_configuration_change() IS 'Trigger: keeps read-only settings, and what migrations say of built-in ones, from changing otherwise.';

-- Errors of a sensitive row never hold its value; they come before those of the
-- table's own constraints, which would print the row.
-- +goose StatementBegin
CREATE FUNCTION dgm.check_configuration_value() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kind text;
    problem text;
BEGIN
    IF NEW.is_sensitive AND (NEW.value IS NOT NULL OR NEW.default_value IS NOT NULL) THEN
        kind := 'configuration_sensitive';
        problem := 'it is sensitive, so that its value may not stand here in plain: put it into a Secret and name that in a SystemConfiguration, spec.secretKeyRef; it is encrypted then';
    ELSIF TG_OP = 'INSERT' THEN
        -- An upsert asks here first, with what it may not even write, and then again as an update. The lock keeps the row until then.
        PERFORM 1 FROM dgm.system_configurations c WHERE c.key = NEW.key FOR KEY SHARE;
        IF FOUND THEN
            RETURN NEW;
        END IF;
    ELSIF (NEW.value, NEW.value_type, NEW.validation_rules, NEW.default_value, NEW.is_sensitive, NEW.encrypted_value, NEW.deleted_at)
        IS NOT DISTINCT FROM (OLD.value, OLD.value_type, OLD.validation_rules, OLD.default_value, OLD.is_sensitive, OLD.encrypted_value, OLD.deleted_at)
        OR (NEW.value IS NOT DISTINCT FROM OLD.value AND dgm.may_migrate(TG_RELID))
        OR (NEW.deleted_at IS NOT NULL AND NEW.value IS NOT DISTINCT FROM OLD.value) -- going is always allowed
        OR dgm.is_reencryption(OLD, NEW) THEN
        NEW.constitutional_hash := OLD.constitutional_hash;
        RETURN NEW;
    END IF;
    IF problem IS NULL THEN
        kind := 'configuration_rules';
        problem := 'the validation_rules ' || dgm.configuration_rules_problem(NEW.validation_rules, NEW.value_type);
    END IF;
    IF problem IS NULL THEN
        SELECT p.kind, p.problem INTO kind, problem FROM dgm.configuration_problem(NEW.key, NEW.value, NEW.value_type, NEW.validation_rules) p;
    END IF;
    IF problem IS NULL AND NEW.default_value IS NOT NULL THEN
        SELECT p.kind, 'its default: ' || p.problem INTO kind, problem
        FROM dgm.configuration_problem(NEW.key, NEW.default_value, NEW.value_type, NEW.validation_rules) p;
    END IF;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'configuration %: %', to_json(left(coalesce(NEW.key, ''), 100)), problem
            USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = kind;
    END IF;
    NEW.constitutional_hash := dgm.active_constitutional_hash();
    RETURN NEW;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.check_configuration_value() IS 'Trigger: a changed value fits its type, its rules and the active constitution, and no sensitive one is in plain.';

-- +goose StatementBegin
CREATE FUNCTION dgm.check_configuration_removal() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    refused text;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION 'system configurations are not truncated: delete the rows that are not built in, and set the others to their default_value'
            USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = 'configuration_builtin';
    ELSIF dgm.may_migrate(TG_RELID) THEN
        RETURN OLD;
    ELSIF OLD.is_builtin THEN
        refused := format('a built-in setting cannot be deleted: set its value to its default, %s', coalesce(to_json(OLD.default_value)::text, 'which it has not'));
    ELSIF OLD.is_readonly THEN
        refused := 'it is read-only: only a migration deletes it';
    END IF;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'configuration %: %', to_json(left(OLD.key, 100)), refused
            USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
                CONSTRAINT = CASE WHEN OLD.is_builtin THEN 'configuration_builtin' ELSE 'configuration_readonly' END;
    END IF;
    RETURN OLD;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.check_configuration_removal() IS 'Trigger: built-in and read-only settings stay.';

-- Triggers fire in the order of their names; these two before set_updated_at.
CREATE TRIGGER check_change BEFORE INSERT OR UPDATE ON dgm.system_configurations FOR EACH ROW EXECUTE FUNCTION dgm.check_configuration_change();
CREATE TRIGGER check_value BEFORE INSERT OR UPDATE ON dgm.system_configurations FOR EACH ROW EXECUTE FUNCTION dgm.check_configuration_value();
CREATE TRIGGER check_delete BEFORE DELETE ON dgm.system_configurations FOR EACH ROW EXECUTE FUNCTION dgm.check_configuration_removal();
CREATE TRIGGER check_truncate BEFORE TRUNCATE ON dgm.system_configurations FOR EACH STATEMENT EXECUTE FUNCTION dgm.check_configuration_removal();
ALTER TABLE dgm.system_configurations ENABLE ALWAYS TRIGGER check_change;
ALTER TABLE dgm.system_configurations ENABLE ALWAYS TRIGGER check_value;
ALTER TABLE dgm.system_configurations ENABLE ALWAYS TRIGGER check_delete;
ALTER TABLE dgm.system_configurations ENABLE ALWAYS TRIGGER check_truncate;

-- +goose StatementBegin
CREATE FUNCTION dgm.check_constitution_rules() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bad record;
BEGIN
    IF jsonb_typeof(NEW.configuration_rules) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'constitution %: configuration_rules must be an object of keys and their rules, like {"safety_threshold": {"min": 0.5}}', NEW.hash
            USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'configuration_rules', CONSTRAINT = 'configuration_rules';
    END IF;
    SELECT e.key, dgm.configuration_rules_problem(e.value, NULL) AS problem INTO bad FROM jsonb_each(NEW.configuration_rules) e
        WHERE dgm.configuration_rules_problem(e.value, NULL) IS NOT NULL ORDER BY e.key LIMIT 1;
    IF bad.problem IS NOT NULL THEN
        RAISE EXCEPTION 'constitution %: the rules for configuration % %', NEW.hash, to_json(left(bad.key, 100)), bad.problem
            USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = 'configuration_rules', CONSTRAINT = 'configuration_rules';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.check_constitution_rules() IS 'Trigger: the rules of a constitution for configurations can be applied.';
CREATE TRIGGER check_rules BEFORE INSERT OR UPDATE OF configuration_rules ON dgm.known_constitutions FOR EACH ROW EXECUTE FUNCTION dgm.check_constitution_rules();
ALTER TABLE dgm.known_constitutions ENABLE ALWAYS TRIGGER check_rules;

-- +goose Down
DROP TRIGGER check_rules ON dgm.known_constitutions;
DROP FUNCTION dgm.check_constitution_rules();
ALTER TABLE dgm.known_constitutions DROP COLUMN configuration_rules;
DROP TRIGGER check_truncate ON dgm.system_configurations;
DROP TRIGGER check_delete ON dgm.system_configurations;
DROP TRIGGER check_value ON dgm.system_configurations;
DROP TRIGGER check_change ON dgm.system_configurations;
DROP FUNCTION dgm.check_configuration_removal();
DROP FUNCTION dgm.check_configuration_value();
DROP FUNCTION dgm.check_configuration_change();
DROP FUNCTION dgm.is_reencryption(dgm.system_configurations, dgm.system_configurations);
DROP FUNCTION dgm.may_migrate(oid);
DROP FUNCTION dgm.configuration_problem(text, text, text, jsonb);
DROP FUNCTION dgm.configuration_rule_problem(text, text, jsonb);
DROP FUNCTION dgm.configuration_type_problem(text, text);
DROP FUNCTION dgm.configuration_rules_problem(jsonb, text);
ALTER TABLE dgm.system_configurations
    DROP CONSTRAINT system_configurations_sensitive,
    DROP CONSTRAINT system_configurations_encrypted,
    DROP COLUMN encrypted_value,
    DROP COLUMN key_id,
    DROP COLUMN default_value,
    DROP COLUMN is_builtin;
COMMENT ON COLUMN dgm.system_configurations.value IS 'Its value, as text; of type value_type.';
COMMENT ON COLUMN dgm.system_configurations.is_sensitive IS 'Whether its value must not be shown.';
COMMENT ON COLUMN dgm.system_configurations.is_readonly IS 'Whether only the operator may change it.';
COMMENT ON COLUMN dgm.system_configurations.validation_rules IS 'What a value must satisfy.';
COMMENT ON COLUMN dgm.system_configurations.constitutional_hash IS 'Constitution under which the row was written.';
