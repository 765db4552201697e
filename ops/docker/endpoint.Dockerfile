# The endpoint: the extra `serve` and nothing else. No torch, no DVC, no Airflow.
FROM python:3.11.15-slim-bookworm AS build
ARG UV=0.13.9
# A package mirror, for who has one.
ARG UV_DEFAULT_INDEX=https://pypi.org/simple
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 VIRTUAL_ENV=/opt/nightshift/.venv
WORKDIR /build
RUN python -m pip install --no-cache-dir --index-url "$UV_DEFAULT_INDEX" uv==$UV && python -m venv "$VIRTUAL_ENV"
COPY requirements.lock setup.cfg pyproject.toml README.md ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --constraints requirements.lock --build-constraints requirements.lock \
    --requirements setup.cfg --extra serve
COPY nightshift nightshift
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --no-deps --build-constraints requirements.lock .

FROM python:3.11.15-slim-bookworm
RUN useradd --uid 10001 --create-home nightshift \
    && mkdir -p /opt/nightshift/.nightshift && chown nightshift: /opt/nightshift/.nightshift
COPY --from=build /opt/nightshift/.venv /opt/nightshift/.venv
ENV PATH=/opt/nightshift/.venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /opt/nightshift
USER 10001
EXPOSE 8000 8001
CMD ["nightshift", "serve", "--host", "0.0.0.0", "--port", "8000", "--grpc-port", "8001"]
