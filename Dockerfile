# syntax=docker/dockerfile:1
# Training and evaluation on a CUDA machine. Mount what must outlive the container:
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD":/work -v lunaops-cache:/cache lunaops
# runs `dvc repro` on the mounted checkout (its data/, .dvc/cache, models/, reports/, mlflow.db and runs/ stay there).
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

ENV DEBIAN_FRONTEND=noninteractive \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PATH=/opt/venv/bin:$PATH

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The locked dependencies are a layer of their own: it is built anew only when the lock changes.
COPY requirements.lock /tmp/requirements.lock
RUN python3 -m venv /opt/venv \
    && pip install --requirement /tmp/requirements.lock \
    && rm /tmp/requirements.lock

RUN useradd --create-home --uid 10001 lunaops \
    && install --directory --owner=lunaops /work /cache \
    && chmod 1777 /cache \
    && git config --system --add safe.directory '*'
ENV HOME=/cache \
    LUNAOPS_CACHE_DIR=/cache

COPY --chown=lunaops . /work
USER lunaops
WORKDIR /work
CMD ["dvc", "repro"]
