#!/usr/bin/env bash
# The browser tests drive Debian's Chromium, the documentation's examples call curl.
# Install what is missing where apt may; say what to do where it may not.
set -u
missing=()
for program in chromium curl; do command -v "$program" >/dev/null || missing+=("$program"); done
[ ${#missing[@]} = 0 ] && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  echo "installing Debian's ${missing[*]} for the tests …"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" fonts-dejavu-core; } >/dev/null && exit 0
fi
echo "missing: ${missing[*]}. The tests that need them will fail until you run 'apt-get install ${missing[*]}'" >&2
exit 0
