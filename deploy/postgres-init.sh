#!/bin/bash
# The postgres image runs this once, when its volume is empty: it creates a database and a user for each
# service. No user can connect to another service's database.
set -euo pipefail

for service in allocation warehouse notification; do
  password="${service^^}_DATABASE_PASSWORD"
  psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" \
       -v service="$service" -v password="${!password:?is not set}" <<'SQL'
CREATE USER :"service" PASSWORD :'password';
CREATE DATABASE :"service" OWNER :"service";
REVOKE CONNECT ON DATABASE :"service" FROM PUBLIC;
SQL
done
