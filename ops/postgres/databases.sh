#!/bin/sh
# Run once by PostgreSQL's image, in a new data folder: a database and a role for Airflow, and one of each for Celery.
set -eu
for name in airflow celery; do
  case $name in airflow) password=$AIRFLOW_PASSWORD ;; celery) password=$CELERY_PASSWORD ;; esac
  psql --username "$POSTGRES_USER" --quiet --set ON_ERROR_STOP=1 <<SQL
CREATE ROLE $name LOGIN PASSWORD '$password';
CREATE DATABASE $name OWNER $name;
REVOKE CONNECT ON DATABASE $name FROM PUBLIC;
SQL
done
