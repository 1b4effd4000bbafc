-- Two databases: each is backed up, restored and vacuumed by itself.
CREATE DATABASE prefect OWNER slipway;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
