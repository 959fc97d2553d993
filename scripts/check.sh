#!/bin/sh
# Runs every check although an earlier one failed, and fails if any did: check.sh [all|lint|slow]
# Browser tests are a pytest run of their own, because synchronous Playwright holds the thread's event loop.
# Both runs share their tests among processes: much of a test is waiting for servers, browsers and databases.
bin=.venv/bin
failed=

run() {
    name=$1
    shift
    printf '\n== %s\n' "$name"
    "$@" || failed="$failed $name"
}

slow() {
    "$@"
    status=$?
    [ "$status" = 5 ] || return "$status" # 5: no test is marked slow here
}

if [ "${1:-all}" != slow ]; then
    run ruff $bin/ruff check .
    run format $bin/ruff format --check .
    run mypy $bin/mypy
fi
case ${1:-all} in
all)
    run tests $bin/python -m pytest -n 3 --dist worksteal
    run browser-tests $bin/python -m pytest tests/browser -n 2 --dist worksteal
    ;;
slow)
    run slow-tests slow $bin/python -m pytest -m slow --hypothesis-profile=random
    run slow-browser-tests slow $bin/python -m pytest tests/browser -m slow
    ;;
esac

[ -z "$failed" ] || { printf '\nFailed:%s\n' "$failed" >&2; exit 1; }
