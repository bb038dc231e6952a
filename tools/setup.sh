#!/bin/sh
# Make the virtual environment in .venv, or say in one line what the system lacks and the command that installs it.
# usage: tools/setup.sh PYTHON
set -eu
python=$1
lacks() { echo "error: $1; install it: $2" >&2; exit 1; }

command -v "$python" >/dev/null || lacks "$python is missing" "apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    lacks "$("$python" --version) is older than 3.11" "apt-get install python3.11 python3.11-venv, then make PYTHON=python3.11"
"$python" -c 'import ensurepip, venv' 2>/dev/null || lacks "python3's venv module is missing" "apt-get install python3-venv"
command -v c++ >/dev/null || command -v g++ >/dev/null || lacks "a C++ compiler is missing" "apt-get install g++"

[ -x .venv/bin/python ] || "$python" -m venv .venv
echo "installing what requirements.txt pins into .venv (a minute or more)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
