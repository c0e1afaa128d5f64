#!/bin/bash
# Debian's Slurm, unpacked into a folder and not installed: what the tests of two nodes run.
#   fetch.sh FOLDER
set -euo pipefail
mkdir -p "$1/packages" "$1/tree"
cd "$1/packages"
apt-get update -q
apt-get download -q libhwloc15 liblua5.1-0 libmunge2 munge slurm-client slurm-wlm-basic-plugins \
  slurmctld slurmd
for package in *.deb; do dpkg -x "$package" ../tree; done
