#!/bin/sh
# Install the Debian packages that some tests need, as root and where they are missing.
# Without them those tests are skipped, and each says what it needs.
set -eu
PATH="$PATH:/usr/sbin"

has() {
    for command in "$@"; do
        command -v "$command" >/dev/null 2>&1 && return
    done
    return 1
}

missing=""
has chromium google-chrome || missing="$missing chromium fonts-liberation"
has docker-compose || docker compose version >/dev/null 2>&1 || missing="$missing docker-compose"
has faketime || missing="$missing faketime"
has nginx || missing="$missing nginx-light"
has slurmctld || missing="$missing slurmctld slurmd slurm-client munge"
[ -n "${SWEEPER_TEST_MYSQL_URL:-}" ] || has mariadbd || missing="$missing mariadb-server"

[ -n "$missing" ] || exit 0
if [ "${TOOLS:-yes}" = no ] || [ "$(id -u)" != 0 ] || ! has apt-get; then
    echo "Not installed, so the tests that need them are skipped:$missing"
    exit 0
fi
echo "Installing Debian packages for the tests (TOOLS=no skips this):$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || true
for package in $missing; do
    apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
        echo "$package could not be installed; the tests that need it are skipped."
done
