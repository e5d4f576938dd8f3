# The image of Starling: the operator, and workers whose agents come from a ConfigMap. With agents of your own:
#   FROM starlingmesh/starling:0.1.0
#   COPY flights.py /agents/
#   ENV PYTHONPATH=/agents
FROM python:3.11-slim AS build
WORKDIR /src
COPY constraints-image.txt .
RUN python -m venv /opt/starling \
    && /opt/starling/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement constraints-image.txt
COPY pyproject.toml README.md LICENSE ./
COPY agent-runtime agent-runtime
COPY operator operator
RUN /opt/starling/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
COPY --from=build /opt/starling /opt/starling
ENV PATH=/opt/starling/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
CMD ["starling", "--help"]
