#!/usr/bin/env bash
# Make .venv from hash-pinned requirements with nothing but some Python on the machine; vllm: .venv-vllm, beside it.
# Usage: scripts/setup.sh [base|dev|agents|gpu|vllm]. What is there already is kept; nothing to do takes no time.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."
kind=${1:-base} uv_version=0.13.9
fail() { echo "setup: $*" >&2; exit 1; }
is312() { [ -x "$1" ] && "$1" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; }
[ -f "requirements/$kind.txt" ] || fail "there is no requirements/$kind.txt; choose base, dev, agents, gpu or vllm"
env=.venv
[ "$kind" = vllm ] && env=.venv-vllm  # its pins clash with ours: its own environment, without the project

# A stamp holds what decides about the environment: the lock, the project's own metadata, its packages.
state() { { cat "requirements/$1.txt" pyproject.toml; echo ./*/__init__.py; } | cksum; }
stamped() { [ -f "$env/.r1lab-$1" ] && [ "$(< "$env/.r1lab-$1")" = "$(state "$1")" ]; }
works() { is312 "$env/bin/python"; }
if works && { stamped "$kind" || { { [ "$kind" = base ] || [ "$kind" = agents ]; } && stamped dev; }; }; then exit 0; fi  # dev holds all of both

SECONDS=0
python=""
# Real interpreters before PATH: a pyenv shim answers "command not found" where 3.12 is not the selected version.
for each in "${UV_PYTHON:-}" "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.12*/bin/python \
    /usr/local/bin/python3.12 /usr/bin/python3.12 "$(command -v python3.12 || true)" "$(command -v python3 || true)"; do
  if [ -n "$each" ] && is312 "$each"; then python=$each; break; fi
done

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  uv=$PWD/.uv/bin/uv
  if ! [ -x "$uv" ]; then
    boot=${python:-$(command -v python3 || true)}
    [ -n "$boot" ] || fail "no Python was found. Install Python 3.12 (apt, pyenv, conda) and run again," \
      "or say where it is: make setup UV_PYTHON=/path/to/python3.12"
    { "$boot" -m venv .uv && .uv/bin/python -m pip install -q --disable-pip-version-check "uv==$uv_version"; } >/dev/null 2>&1 ||
      { rm -rf .uv; "$boot" -m pip install -q --disable-pip-version-check --target .uv "uv==$uv_version"; } ||
      fail "uv could not be installed. Is there a network? Or install it yourself: pip install uv==$uv_version"
  fi
fi
if [ -z "$python" ]; then
  { "$uv" python install 3.12 && python=$("$uv" python find 3.12); } >/dev/null 2>&1 ||
    fail "Python 3.12 is needed, and was neither found nor could be downloaded. Install it (apt, pyenv, conda) and run" \
      "again, or say where it is: make setup UV_PYTHON=/path/to/python3.12"
fi

works || { rm -rf "$env"; "$uv" venv -q --no-project --python "$python" "$env"; }
echo "setup: installing requirements/$kind.txt into $env (up to 3 GB to download the first time) ..."
isolation=()
[ "$kind" = gpu ] && isolation=(--no-build-isolation)  # Transformer Engine is built against the torch that is there
"$uv" pip install -q --python "$env/bin/python" --require-hashes "${isolation[@]}" -r "requirements/$kind.txt" ||
  fail "packages could not be installed; what was downloaded is kept, so just run it again"
# setuptools comes with the requirements: nothing that is not pinned is fetched to build the project
[ "$kind" = vllm ] || "$uv" pip install -q --python .venv/bin/python --no-deps --no-build-isolation --editable . ||
  fail "the project itself could not be installed into .venv"
state "$kind" > "$env/.r1lab-$kind"
command -v bwrap > /dev/null || echo "setup: there is no bubblewrap, so code tasks will be refused: apt install bubblewrap"
echo "setup: done in $SECONDS s ($("$uv" --version), $("$env/bin/python" --version))"
