# The factory in a container, not as root; artifacts lie in the volume /work.
#
#   docker build --tag distill-factory .
#   docker build --tag distill-factory:gpu --build-arg EXTRA=gpu \
#       --build-arg BASE=nvidia/cuda:12.9.1-runtime-ubuntu24.04 .
#   docker run --rm --volume "$PWD:/work" distill-factory build smoke
#   docker run --rm --gpus all --shm-size 8g --volume "$PWD:/work" distill-factory:gpu doctor
#
# Programs that models write run in user namespaces, which Docker's default seccomp profile refuses:
# add `--security-opt seccomp=unconfined` where recipes run programs; `factory doctor` says whether
# the sandbox holds. On macOS and Windows this is the way to build.
ARG BASE=ubuntu:24.04
FROM ${BASE}
ARG EXTRA=
ENV PATH=/opt/factory/bin:$PATH PIP_NO_CACHE_DIR=1

# pycosat, which reasoning-gym needs, is compiled on installation.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential git python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

COPY . /src
# For CPUs torch comes first and from its own index, so that no gigabytes of CUDA libraries come along.
RUN python3 -m venv /opt/factory \
    && if [ "$EXTRA" != gpu ]; then \
        pip install --no-deps --index-url https://download.pytorch.org/whl/cpu \
            "$(sed -n 's/^torch==.*/&+cpu/p' /src/constraints.txt)"; \
    fi \
    && pip install --constraint /src/constraints.txt "/src${EXTRA:+[$EXTRA]}" \
    && factory setup

RUN useradd --create-home factory && install --directory --owner factory /work
USER factory
WORKDIR /work
VOLUME /work
ENTRYPOINT ["factory"]
CMD ["--help"]
