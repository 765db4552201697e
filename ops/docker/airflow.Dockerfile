# Airflow's processes and the stages that its workers run: the locked packages, torch, nightshift, dags/ and plugins/.
# The stages' own code is not in here: each run brings the tree of its commit.
FROM python:3.11.15-slim-bookworm AS build
ARG UV=0.13.9
ARG TORCH=2.13.0
# Where torch's wheel for this image is; empty: the package index, whose wheel for Linux brings CUDA along.
ARG TORCH_LINKS=https://download.pytorch.org/whl/cpu/torch/
# A package mirror, for who has one.
ARG UV_DEFAULT_INDEX=https://pypi.org/simple
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 VIRTUAL_ENV=/opt/nightshift/.venv
WORKDIR /build
RUN python -m pip install --no-cache-dir --index-url "$UV_DEFAULT_INDEX" uv==$UV && python -m venv "$VIRTUAL_ENV"
COPY requirements.lock setup.cfg pyproject.toml README.md ./
# Versions and hashes come from the lock file, which torch alone is not in: its wheel differs from machine to machine.
# A layer of its own, because it is the biggest and changes least.
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --constraints requirements.lock ${TORCH_LINKS:+--find-links "$TORCH_LINKS"} torch==$TORCH
# hadolint ignore=DL3059
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --constraints requirements.lock --build-constraints requirements.lock \
    --requirements setup.cfg --extra airflow --extra team --extra train
COPY nightshift nightshift
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --no-deps --build-constraints requirements.lock .

FROM python:3.11.15-slim-bookworm
# begin, record and the rendering of the DAGs read the team's repository.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home nightshift \
    && mkdir -p /opt/nightshift/.nightshift/airflow/logs /opt/nightshift/repository \
    && chown -R nightshift: /opt/nightshift/.nightshift /opt/nightshift/repository
COPY --from=build /opt/nightshift/.venv /opt/nightshift/.venv
COPY dags /opt/nightshift/dags
COPY plugins /opt/nightshift/plugins
# Some verbs look for them; a run reads those of its own commit.
COPY dvc.yaml params.yaml /opt/nightshift/
ENV PATH=/opt/nightshift/.venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /opt/nightshift
USER 10001
CMD ["nightshift", "--help"]
