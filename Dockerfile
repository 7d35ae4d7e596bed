# mirrorlog in a container: every part is a command of it (`node`, `host …`, `site …`, `demo`).
#
# Where pip needs settings of its own (a mirror, a proxy): docker build --secret id=pip,src=pip.conf …
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
RUN useradd --create-home --home-dir /var/lib/mirrorlog mirrorlog
WORKDIR /src
COPY requirements.lock ./
# The lock's versions without its development tools: constraints, not requirements, and pip takes no hashes in those.
RUN sed -e '/--hash=/d' -e 's/ *\\$//' requirements.lock > /pins
COPY . ./
RUN --mount=type=secret,id=pip,target=/etc/xdg/pip/pip.conf \
    pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore -c /pins . && rm -rf /src/*
USER mirrorlog
WORKDIR /var/lib/mirrorlog
ENV MIRRORLOG_STATE_DIR=/var/lib/mirrorlog/state MIRRORLOG_CACHE_DIR=/var/lib/mirrorlog/cache
RUN mkdir state cache
ENTRYPOINT ["mirrorlog"]
CMD ["--help"]
