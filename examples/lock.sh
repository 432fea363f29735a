#!/bin/sh
# Locks each example's dependencies again: exact versions with hashes, for Python 3.10 and newer.
# Without addresses, so that a host installs from whatever index its owner trusts.
set -eu
cd "$(dirname "$0")"

lock() { # lock FOLDER INPUT
  (
    cd "$1"
    printf '# Locked from %s by examples/lock.sh: exact versions and hashes, no addresses.\n' "$2" >requirements.lock.tmp
    ${UV:-uv} pip compile --quiet --universal --python-version 3.10 --generate-hashes \
      --no-emit-index-url --no-header "$2" >>requirements.lock.tmp
    mv requirements.lock.tmp requirements.txt
  )
}

lock fastapi_app requirements.in
lock flask_app requirements.in
lock django_app pyproject.toml
