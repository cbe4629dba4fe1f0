-- For sqlc alone, which does not see what roles.sql does.
CREATE SCHEMA dgm;
