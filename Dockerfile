# The image of every service in docker-compose.yml except the database. It runs only `sweeper`.
FROM python:3.11-slim

# The index of the torch build: the CPU build by default. For a GPU, use the index of a CUDA build.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /src
COPY constraints.txt ./
# Install torch first. Otherwise packages that depend on it select a build with gigabytes of CUDA.
# The build from the index, 2.13.0+cpu, takes precedence over PyPI's 2.13.0; torch's own
# dependencies come from PyPI.
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url "$TORCH_INDEX" torch
COPY pyproject.toml README.md LICENSE ./
COPY sweeper ./sweeper
COPY studies ./studies
COPY dashboards ./dashboards
RUN pip install --no-cache-dir -c constraints.txt ".[serve,postgresql,mysql]"

# A numeric user, so that container runtimes can check that it is not root. A new volume at /results
# inherits the owner of that folder.
RUN groupadd --gid 10001 sweeper \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp sweeper \
    && install --directory --owner 10001 --group 10001 /results
USER 10001:10001
# With this folder, the relative paths studies/… and results/… are the mounted folders.
WORKDIR /
ENTRYPOINT ["sweeper"]
