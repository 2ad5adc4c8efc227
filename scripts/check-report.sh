#!/bin/sh
# Checks reports in a browser: scripts/check-report.sh REPORT.html... [SCREENSHOTS]
set -eu
here=$(dirname "$0")
tools=$here/../target/browser-tools
[ -d "$tools/playwright" ] || python3 -m pip install --quiet --target "$tools" playwright
PYTHONPATH=$tools python3 "$here/check-report.py" "$@"
