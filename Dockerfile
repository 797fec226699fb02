# SPDX-License-Identifier: Apache-2.0
# Two images of the same wheel; docs/real_time.md says how each is run. Weights, data and results are mounted.
#   docker build --target server -t flashwam-server .     a policy server for an NVIDIA GPU
#   docker build --target demo -t flashwam-demo .         the demo, on the CPU

# torch brings its own CUDA: of this one the driver's hooks alone are used, so an early version turns no driver away.
ARG CUDA=12.8.1
ARG UBUNTU=24.04

FROM ubuntu:${UBUNTU} AS wheel
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY setup.cfg pyproject.toml README.md LICENSE NOTICE ./
COPY flashwam flashwam
COPY recipes recipes
RUN python3 -m venv /build && /build/bin/pip wheel --no-cache-dir --no-deps -w /wheel .

FROM nvidia/cuda:${CUDA}-base-ubuntu${UBUNTU} AS server
# Triton and torch's compiler build small C programs while a model warms up.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv python3-dev gcc g++ \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /constraints.txt
COPY --from=wheel /wheel /wheel
ENV PIP_CONSTRAINT=/constraints.txt PIP_BUILD_CONSTRAINT=/constraints.txt
RUN python3 -m venv /opt/flashwam \
    && /opt/flashwam/bin/pip install --no-cache-dir "$(echo /wheel/*.whl)[serve,lingbot,cogvideox]"
# Compiled code, embedded prompts and models of the hub outlive the container where this is a volume.
RUN install -d -o ubuntu -g ubuntu /cache
ENV PATH=/opt/flashwam/bin:$PATH FLASHWAM_CACHE=/cache/flashwam HF_HOME=/cache/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor TRITON_CACHE_DIR=/cache/triton
USER ubuntu
WORKDIR /models
EXPOSE 29536
HEALTHCHECK --start-period=15m --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:29536/healthz', timeout=4)"]
ENTRYPOINT ["flashwam", "serve", "--host", "0.0.0.0"]
CMD ["--help"]

FROM ubuntu:${UBUNTU} AS demo
# The simulator draws without a screen.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv libegl1 libopengl0 libgl1-mesa-dri libosmesa6 \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /constraints.txt
COPY --from=wheel /wheel /wheel
ENV PIP_CONSTRAINT=/constraints.txt PIP_BUILD_CONSTRAINT=/constraints.txt
RUN python3 -m venv /opt/flashwam \
    && /opt/flashwam/bin/pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        "$(echo /wheel/*.whl)[sim,report]"
RUN install -d -o ubuntu -g ubuntu /runs
ENV PATH=/opt/flashwam/bin:$PATH
USER ubuntu
WORKDIR /runs
ENTRYPOINT ["flashwam", "demo", "--out", "/runs/demo"]
CMD ["--preset", "quick"]
