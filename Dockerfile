# The monitor's image: no torch in it, no compiler, not root. docs/docker.md says how it is run.
FROM python:3.12-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY requirements/dev.txt requirements/dev.txt
COPY agent agent
COPY monitor monitor
COPY dashboards dashboards
RUN python -m venv /opt/trainvitals \
    && /opt/trainvitals/bin/pip install --no-cache-dir --disable-pip-version-check \
        --constraint requirements/dev.txt '.[monitor]'

FROM python:3.12-slim-bookworm
LABEL org.opencontainers.image.title="trainvitals monitor" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 trainvitals \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin trainvitals \
    && install --directory --owner 10001 --group 10001 --mode 0750 /data
COPY --from=build /opt/trainvitals /opt/trainvitals
ENV PATH=/opt/trainvitals/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TRAINVITALS_STORE=/data
USER 10001:10001
VOLUME /data
EXPOSE 8420
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8420/readyz', timeout=4)"]
ENTRYPOINT ["trainvitals"]
CMD ["serve", "--host", "0.0.0.0"]
