#!/bin/sh
# Chromium for the tests in this folder, from the distribution's packages.
set -e
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" > /dev/null; then exit 0; fi
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "no Chromium here: install it (Debian: apt-get install chromium, as root), then try again" >&2
    exit 1
fi
apt-get update --quiet
apt-get install --yes --quiet --no-install-recommends chromium
