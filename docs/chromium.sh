#!/usr/bin/env bash
# The browser tests drive Debian's Chromium. Install it where apt may; say what to do where it may not.
set -u
command -v chromium >/dev/null && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  echo "installing Debian's chromium for the browser tests …"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >/dev/null && exit 0
fi
echo "chromium is missing: the browser tests will fail until you run 'apt-get install chromium'" >&2
exit 0
