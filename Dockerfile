# One image per service: docker build --build-arg SERVICE=orders .
# Installs only that service's pinned dependencies and copies only that service's code.
FROM python:3.13-slim AS base
RUN python -m venv /opt/venv
# What every service needs, made once for all of them. A file `pip` given as a build secret is used as pip's
# configuration: for whoever sits behind a package mirror.
COPY locks/base.lock /tmp/base.lock
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/base.lock

FROM base AS build
ARG SERVICE
COPY locks/${SERVICE}.lock /tmp/service.lock
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/service.lock

FROM python:3.13-slim
ARG SERVICE
ENV SERVICE=${SERVICE} PATH=/opt/venv/bin:$PATH PYTHONPATH=/app/libs:/app/services \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/venv /opt/venv
COPY libs/contracts /app/libs/contracts
COPY libs/eventlog /app/libs/eventlog
COPY libs/rescind /app/libs/rescind
COPY libs/servicekit /app/libs/servicekit
COPY services/${SERVICE} /app/services/${SERVICE}
# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
WORKDIR /app
# exec: the service is process 1 and gets the SIGTERM.
ENTRYPOINT ["/bin/sh", "-c", "exec python -m \"$SERVICE\" \"$@\"", "service"]
