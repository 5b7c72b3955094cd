# docker build --tag mia-lightning .
# docker run --rm --gpus all --user "$(id -u):$(id -g)" --volume "$PWD:/work" mia-lightning dataset=digits
# torch brings CUDA's libraries; of the base image come the settings by which the host's driver is found.
ARG BASE=nvidia/cuda:12.8.1-base-ubuntu24.04
FROM ${BASE}

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/mia
ENV PATH=/opt/mia/bin:$PATH

COPY pyproject.toml README.md LICENSE /src/
COPY conf /src/conf
COPY mia_lightning /src/mia_lightning
RUN pip install --no-cache-dir "/src[dp,serve,remote,onnx,tensorboard]"

# Whoever it is run as writes to /work, and to nothing else; HOME is for caches of libraries.
RUN useradd --create-home --uid 10001 auditor && mkdir /work && chown auditor /work
ENV HOME=/tmp
WORKDIR /work
USER auditor
ENTRYPOINT ["mia-lightning"]
