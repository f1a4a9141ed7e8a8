-- A database and a role for each service: none can read another's.
CREATE ROLE identity LOGIN PASSWORD 'identity-secret';
CREATE DATABASE identity OWNER identity;
REVOKE CONNECT ON DATABASE identity FROM PUBLIC;
CREATE ROLE orders LOGIN PASSWORD 'orders-secret';
CREATE DATABASE orders OWNER orders;
REVOKE CONNECT ON DATABASE orders FROM PUBLIC;
CREATE ROLE notifications LOGIN PASSWORD 'notifications-secret';
CREATE DATABASE notifications OWNER notifications;
REVOKE CONNECT ON DATABASE notifications FROM PUBLIC;
