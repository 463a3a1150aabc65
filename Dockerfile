# The service on CPU. For CUDA: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 (compose profile `gpu`).
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Extras to install, as "eval" for evaluations over HTTP, or "eval,otel"; none by default, for a small image.
ARG EXTRAS=""

RUN useradd --create-home --uid 1000 tiller \
    && install --directory --owner tiller /home/tiller/models /home/tiller/probes
WORKDIR /app

RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch>=2.6"
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY steering steering
COPY probes probes
COPY eval eval
RUN pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}"

USER tiller
ENV TILLER_HOME=/home/tiller/models \
    TILLER_HOST=0.0.0.0 \
    TILLER_ALLOW_PUBLIC=true
VOLUME ["/home/tiller/models", "/home/tiller/probes"]
EXPOSE 8000

# The first start fetches and converts the embedded model, so readiness may take a few minutes.
HEALTHCHECK --interval=10s --timeout=3s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
CMD ["tiller", "serve"]
