# The conventional image: an environment copied from a builder, all of it owned by the user, uvicorn[standard].
ARG PYTHON_IMAGE
ARG UV_IMAGE
FROM ${UV_IMAGE} AS uv

FROM ${PYTHON_IMAGE} AS builder
COPY --from=uv /uv /usr/local/bin/uv
WORKDIR /app
COPY pyproject.toml ./
RUN uv venv && uv pip install --no-cache .

FROM ${PYTHON_IMAGE}
WORKDIR /app
COPY --from=builder /app/.venv /app/.venv
COPY src/ src/
RUN useradd --create-home --uid 1000 appuser && chown --recursive appuser:appuser /app
USER appuser
ENV PATH="/app/.venv/bin:$PATH" PYTHONPATH=/app/src
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=3s --start-period=5s --retries=3 \
    CMD python -c "import urllib.request; urllib.request.urlopen('http://localhost:8000/health').read()" || exit 1
CMD ["gunicorn", "conventional:app", "--workers", "4", "--worker-class", "uvicorn.workers.UvicornWorker", "--bind", "0.0.0.0:8000", "--timeout", "120", "--graceful-timeout", "30", "--access-logfile", "-", "--error-logfile", "-"]
