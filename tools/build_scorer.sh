#!/bin/sh
# Builds cpp_scorer/score, or with --sanitize its tests under the address and undefined-behaviour sanitizers, or with
# --sanitize=thread under the thread sanitizer:
#   build_scorer.sh [--sanitize[=thread]] [-DBUILD_TESTING=ON] [-DONNXRUNTIME_ROOT=DIR] [-DJSON_ROOT=DIR]
#     [-DHTTPLIB_ROOT=DIR] ...
# CMake finds what is there and fetches the rest into .deps/ (tools/get_native_deps.sh). To ship the program with
# onnxruntime's library: cmake --install cpp_scorer/build --prefix FOLDER [--strip]; for --device cuda the same again
# with --component cuda.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
case ${1-} in
--sanitize)
    shift
    build=$root/cpp_scorer/build-sanitize
    set -- -DSANITIZE=address -DBUILD_TESTING=ON "$@"
    ;;
--sanitize=thread)
    shift
    build=$root/cpp_scorer/build-sanitize-thread
    set -- -DSANITIZE=thread -DBUILD_TESTING=ON "$@"
    ;;
*)
    build=$root/cpp_scorer/build
    ;;
esac

cmake=$root/.venv/bin/cmake
[ -x "$cmake" ] || cmake=$(command -v cmake) || {
    echo "error: cmake is missing; run 'make setup', or install it (apt install cmake)" >&2
    exit 1
}
compiler=${CXX:-c++}
if ! command -v "${compiler%% *}" >/dev/null; then  # "ccache g++" is one too
    echo "error: a C++ compiler is missing; install one (apt install g++)" >&2
    exit 1
fi

# Two at once, as the workers of the tests may be, would link each other's half-written objects.
mkdir -p "$build"
exec 9>"$build/.lock"
if command -v flock >/dev/null; then flock 9; fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$cmake" -S "$root/cpp_scorer" -B "$build" -DFETCH_DEPENDENCIES=ON "$@" >"$log" 2>&1 || {
    cat "$log" >&2
    exit 1
}
# As if called by itself: a make around this one would have every folder printed.
env -u MAKEFLAGS -u MAKELEVEL "$cmake" --build "$build" --parallel "$(nproc)"
