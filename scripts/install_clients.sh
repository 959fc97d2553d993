#!/bin/sh
# Installs the vendors' own JavaScript clients and what the examples need for the tests, and on Debian, for root, the
# Node.js they run on and the driver of Chromium.
set -eu
cd "$(dirname "$0")/../tests/dialects/clients"

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "The tests run the vendors' JavaScript clients: install Node.js and npm (Debian: nodejs npm), then try again." >&2
        exit 1
    fi
    echo "Installing Debian's nodejs and npm"
    apt-get -o DPkg::Lock::Timeout=120 update -qq
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -qq -y --no-install-recommends nodejs npm
fi

# npm writes its own lock file into node_modules at the end of an install; a newer list means there is more to install.
stamp=node_modules/.package-lock.json
for folder in . ../../../examples/playwright_test; do
    cd $folder
    if [ ! -e $stamp ] || [ package-lock.json -nt $stamp ]; then
        echo "Installing the JavaScript packages of $(pwd)"
        npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
        touch $stamp
    fi
done

# Selenium's example drives Debian's Chromium; where that came from elsewhere, its driver is expected to be there too.
if ! command -v chromedriver >/dev/null && [ -e /etc/debian_version ] && [ "$(id -u)" = 0 ]; then
    echo "Installing Debian's chromium-driver"
    apt-get -o DPkg::Lock::Timeout=120 update -qq
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -qq -y --no-install-recommends chromium-driver
fi
