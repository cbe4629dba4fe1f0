-- min-compatible-binary: 5
-- +goose Up
-- What the columns hold by now.
COMMENT ON COLUMN dgm.improvement_workspaces.environment_snapshot IS 'What the change found: the objects that it changes, the target and the ConfigMaps that its pods read, with digests and with credentials hidden; Secrets by digest alone; notes about what could not be captured. At most 256 KiB.';
COMMENT ON COLUMN dgm.improvement_workspaces.test_results IS 'The sandbox and each test: outcome, exit code, tries, results, message and the end of the log; of earlier tries a shorter end.';

-- +goose Down
COMMENT ON COLUMN dgm.improvement_workspaces.test_results IS 'Outcome of the tests.';
COMMENT ON COLUMN dgm.improvement_workspaces.environment_snapshot IS 'Digests of what was captured before the change.';
