# mirrorlog in a container: every part is a command of it (`node`, `host …`, `site …`, `demo`).
#
# Where pip needs settings of its own (a mirror, a proxy): docker build --secret id=pip,src=pip.conf …
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE} AS tools
RUN apt-get -qq update && apt-get -qq install -y --no-install-recommends nbdkit libnbd0 > /dev/null \
 && rm -rf /var/lib/apt/lists/*

FROM tools AS build
# A compiler and headers, for the filter that `host serve` gives to nbdkit.
RUN apt-get -qq update \
 && apt-get -qq install -y --no-install-recommends gcc libc6-dev nbdkit-plugin-dev > /dev/null
RUN python3 -m venv /opt/mirrorlog
ENV PATH=/opt/mirrorlog/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml requirements.lock ./
# The lock's versions without its development tools: constraints, not requirements, and pip takes no
# hashes in those. The dependencies have a layer of their own, which a change of mirrorlog keeps.
RUN --mount=type=secret,id=pip,target=/etc/xdg/pip/pip.conf \
    sed -e '/--hash=/d' -e 's/ *\\$//' requirements.lock > /pins \
 && python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > /wanted \
 && pip install -q -c /pins -r /wanted
COPY . ./
RUN --mount=type=secret,id=pip,target=/etc/xdg/pip/pip.conf pip install -q --no-deps . \
 && python -c 'from pathlib import Path; from mirrorlog.producers.nbd.native import build_libraries; build_libraries(Path("/opt/mirrorlog/cache"))'

FROM tools
RUN useradd --uid 10001 --create-home --home-dir /var/lib/mirrorlog mirrorlog \
 && install -d -o mirrorlog /var/lib/mirrorlog/state /run/mirrorlog
COPY --from=build /opt/mirrorlog /opt/mirrorlog
COPY --chmod=755 containers/service.sh /usr/local/bin/mirrorlog-service
ENV PATH=/opt/mirrorlog/bin:$PATH MIRRORLOG_STATE_DIR=/var/lib/mirrorlog/state MIRRORLOG_CACHE_DIR=/opt/mirrorlog/cache
USER mirrorlog
WORKDIR /var/lib/mirrorlog
ENTRYPOINT ["mirrorlog"]
CMD ["--help"]
