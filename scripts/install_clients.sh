#!/bin/sh
# Installs the vendors' own JavaScript clients and what the examples need for the tests.
set -eu
cd "$(dirname "$0")/.."

PATH=$PWD/.venv/bin:$PATH # the test extra brings Node.js where there is a wheel of it
if ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null || ! command -v npm >/dev/null; then
    echo "The tests run the vendors' JavaScript clients: install Node.js 20 or newer and npm, then try again." >&2
    exit 1
fi

# npm writes its own lock file into node_modules at the end of an install; a newer list means there is more to install.
stamp=node_modules/.package-lock.json
for folder in tests/dialects/clients examples/playwright_test; do
    (
        cd $folder
        if [ ! -e $stamp ] || [ package-lock.json -nt $stamp ]; then
            echo "Installing the JavaScript packages of $folder"
            npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
            touch $stamp
        fi
    )
done
