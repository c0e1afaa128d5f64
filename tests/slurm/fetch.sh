#!/bin/bash
# Debian's Slurm, unpacked into a folder and not installed: what the tests of two nodes run.
#   fetch.sh FOLDER
set -euo pipefail
if [ -d "$1/tree" ] || command -v slurmctld >/dev/null; then exit 0; fi
mkdir -p "$1/packages"
cd "$1/packages"
apt-get update -q
apt-get download -q libhwloc15 liblua5.1-0 libmunge2 munge slurm-client slurm-wlm-basic-plugins \
  slurmctld slurmd
# Under its name only when it is complete: the tests look for the folder.
rm -rf ../partial
for package in *.deb; do dpkg -x "$package" ../partial; done
mv ../partial ../tree
