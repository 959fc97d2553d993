#!/bin/sh
# Makes the virtual environment, or keeps the one that is there and works: make_venv.sh PYTHON DIRECTORY
set -eu
python=$1
venv=$2

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Python 3.11 or newer is needed, and '$python' is not. Name another one: make PYTHON=python3.12 ..." >&2
    exit 1
fi

if "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    exit 0
fi

make_venv() { "$python" -m venv --clear "$venv"; }

if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    make_venv
    exit 0
fi

# Debian and Ubuntu ship ensurepip in a package of its own, python3.11-venv.
package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
if "$python" "$(dirname "$0")/debian.py" "$package"; then
    make_venv
else
    echo "'$python' cannot make a virtual environment. On Debian or Ubuntu: sudo apt-get install $package" >&2
    exit 1
fi
