#!/bin/sh
# Installs the vendors' own JavaScript clients for the tests, and on Debian, for root, the Node.js they run on.
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
if [ ! -e $stamp ] || [ package-lock.json -nt $stamp ]; then
    echo "Installing the vendors' JavaScript clients"
    npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
    touch $stamp
fi
