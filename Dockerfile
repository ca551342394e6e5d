# The image of every service of docker-compose.yml but the database: `sweeper`, and nothing else.
FROM python:3.11-slim

# Where torch comes from: its CPU build here, for a GPU the index of a CUDA build.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /src
COPY constraints.txt ./
# torch first: whatever depends on it would otherwise choose the build, gigabytes of CUDA. A build
# of the index, 2.13.0+cpu, goes before PyPI's 2.13.0; what torch itself needs is PyPI's.
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url "$TORCH_INDEX" torch
COPY pyproject.toml README.md LICENSE ./
COPY sweeper ./sweeper
COPY studies ./studies
COPY dashboards ./dashboards
RUN pip install --no-cache-dir -c constraints.txt ".[postgresql,mysql]"

# A number, so that whoever runs the image can see that it is not root. A new volume on /results
# takes over that folder's owner.
RUN groupadd --gid 10001 sweeper \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp sweeper \
    && install --directory --owner 10001 --group 10001 /results
USER 10001:10001
# So that studies/… and results/… are the mounted folders.
WORKDIR /
ENTRYPOINT ["sweeper"]
