#!/usr/bin/env bash
# Installs everything the tests need, checks style (ruff) and types (mypy), and runs the tests, the GUI tests under a
# virtual display. Fails when one of them fails; all three say what they found.
#
#   bash tests/run.sh [pytest options]
#   bash tests/run.sh --static          style and types alone
#
# The tests run in up to four processes side by side, one for each core; `-n 0` runs them one after the other.
# Uses the virtual environment in CLAPS_VENV, by default .venv-test, which it makes if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."

static=no
if [ "${1:-}" = --static ]; then
  static=only
  shift
fi

# What Qt and OpenGL need without a screen, by their Debian names.
packages=(xvfb xauth libgl1 libgl1-mesa-dri libegl1 libglib2.0-0 libdbus-1-3 libxkbcommon-x11-0 libxcb-cursor0
  libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-xinerama0
  libxcb-xkb1 libfontconfig1)
missing=()
[ "$static" = only ] || for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q "install ok installed" ||
    dpkg-query -W -f='${Status}' "${p}t64" 2>/dev/null | grep -q "install ok installed" || missing+=("$p")
done
if ((${#missing[@]})); then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q "${missing[@]}"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo apt-get update -q && sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -q "${missing[@]}"
  else
    echo "These system packages are missing and cannot be installed without root: ${missing[*]}" >&2
    echo "Install them first:  sudo apt-get install ${missing[*]}" >&2
    exit 1
  fi
fi

venv="${CLAPS_VENV:-.venv-test}"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install -q -e ".[test]"

# One thread for each process: more would only wait for each other.
export QT_QPA_PLATFORM=xcb LIBGL_ALWAYS_SOFTWARE=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
failed=0
"$venv/bin/ruff" check . || failed=1
"$venv/bin/mypy" || failed=1
if [ "$static" = no ]; then
  xvfb-run -a -s "-screen 0 1280x1024x24 +extension GLX" \
    "$venv/bin/python" -m pytest -n logical --maxprocesses 4 --dist loadgroup "$@" || failed=1
fi
exit "$failed"
