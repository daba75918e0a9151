# One image for every process of Allocation; compose.yaml says which process runs in which container.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /source
RUN python3 -m venv /opt/allocation
COPY constraints.txt ./
COPY pyproject.toml README.md LICENSE celeryconfig.py ./
COPY allocation allocation
COPY workers workers
RUN /opt/allocation/bin/pip install --no-cache-dir --constraint constraints.txt '.[otel]' \
 && /opt/allocation/bin/pip uninstall --yes pip

FROM python:${PYTHON}-slim
RUN useradd --uid 1000 --no-create-home --shell /usr/sbin/nologin allocation
COPY --from=build /opt/allocation /opt/allocation
# Unbuffered, so that the last log lines of a killed process are not lost; no bytecode, as the file
# system is read-only.
ENV PATH=/opt/allocation/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
WORKDIR /tmp
USER allocation
CMD ["allocation", "--help"]
