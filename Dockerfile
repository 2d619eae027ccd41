# docker build -t spiking-zoo . && docker run --rm spiking-zoo
# Installs the pinned versions and measures the shipped model; `docker run -it spiking-zoo bash` has the command zoo.
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /spiking-zoo
COPY . .
# The CPU build of torch: the CUDA build needs no image of its own, `pip install .` on the machine does.
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu PIP_NO_CACHE_DIR=1 PATH=/spiking-zoo/.venv/bin:$PATH
RUN make .venv/.run
CMD ["make", "run"]
