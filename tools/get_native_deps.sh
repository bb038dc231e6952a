#!/bin/sh
# Fetches into .deps/ what the scorer needs and the system lacks; nothing is installed. CMake calls it with some of:
#   get_native_deps.sh onnxruntime   makes .deps/onnxruntime/include and lib
#   get_native_deps.sh json          makes .deps/json/include (nlohmann/json)
#   get_native_deps.sh httplib       makes .deps/httplib/include (cpp-httplib), of Debian's source package
# Headers come from Debian's packages, through the machine's own mirror and apt's signature check, else from an official
# release archive; onnxruntime's may be older than the library, whose interface only grows. The library comes from the
# Python environment's onnxruntime, else from the wheel of the version that requirements.txt pins.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
deps=$root/.deps
debian_suite=trixie # the first Debian release with onnxruntime's headers
debian_default_mirror=http://deb.debian.org/debian
debian_keys=/usr/share/keyrings/debian-archive-keyring.gpg
onnxruntime_oldest=$(sed -n 's/^set(OLDEST_ONNXRUNTIME \([0-9]*\))$/\1/p' "$root/cpp_scorer/dependencies.cmake") # 1.x
onnxruntime_version=1.31.1
# On PyPI a file's folder is its BLAKE2b digest.
onnxruntime_folder_x86_64=b4/1d/0f85ee31a3d93f2243a5cc29252becf858f53ac5cfa6c9c15d9ffe107eea
onnxruntime_sha256_x86_64=5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f
onnxruntime_folder_aarch64=02/ee/b173a49293b146b54bd057bf8681a015aef764d8f56d999ad8c6e53ab18d
onnxruntime_sha256_aarch64=da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3
headers_version=1.20.1
headers_sha256=67db4dc1561f1e3fd42e619575c82c601ef89849afc7ea85a003abbac1a1a105
json_version=3.11.3
json_sha256=d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d
httplib_version=0.18.7
httplib_sha256=4770f8ea3d3fcd27b0b713c783d9b53bce3baddbd5adad13714011df96142526 # of the header

mkdir -p "$deps"
work=$(mktemp -d "$deps/.fetching.XXXXXX") # beside the result, so that moving it there is one step
trap 'rm -rf "$work"' EXIT

fail() {
    echo "error: $*" >&2
    exit 1
}

# The mirror that this machine gets Debian from, as its apt sources name it.
debian_mirror() {
    apt-get indextargets --format '$(REPO_URI) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
        awk '$1 ~ /\/debian\/?$/ && $1 !~ /security/ { print $1; exit }'
}

# debian_package NAME: unpacks the package into $work/NAME. apt runs on lists of its own, beside the machine's.
debian_package() {
    debian_lists deb && (cd "$work" && private_apt download "$1") && dpkg-deb -x "$work/$1"_*.deb "$work/$1"
}

# debian_source NAME: unpacks the package's sources, as they were before Debian changed them, into $work/NAME.
debian_source() {
    mkdir "$work/$1"
    debian_lists deb-src && (cd "$work" && private_apt source --download-only "$1") &&
        tar -xf "$work/$1"_*.orig.tar.* -C "$work/$1" --strip-components=1
}

# debian_lists deb|deb-src: what the mirror has of binary or of source packages.
debian_lists() {
    for tool in apt-get dpkg dpkg-deb; do command -v $tool >/dev/null || return 1; done
    [ -r $debian_keys ] || return 1
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
    mirror=$(debian_mirror)
    line="$1 [signed-by=$debian_keys] ${mirror:-$debian_default_mirror} $debian_suite main"
    [ "$line" != "$(cat "$work/apt/sources.list" 2>/dev/null)" ] || return 0
    echo "$line" >"$work/apt/sources.list"
    private_apt update
}

private_apt() {
    apt-get -qq -o Dir::State="$work/apt" -o Dir::State::lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" \
        -o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=- -o APT::Sandbox::User="$(id -un)" \
        -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "$@" >"$work/apt.log" 2>&1
}

# fetch FILE URL SHA256: the file's bytes are those, or there is none.
fetch() {
    if command -v curl >/dev/null; then
        curl -fsL --retry 1 --connect-timeout 20 -o "$1" "$2"
    elif command -v wget >/dev/null; then
        wget -q --timeout=20 -O "$1" "$2"
    else
        fail "neither curl nor wget is there to fetch $2; install one (apt install curl)"
    fi || fail "$2 cannot be fetched; give the path to what it holds with -DONNXRUNTIME_ROOT=, -DJSON_ROOT= or -DHTTPLIB_ROOT="
    echo "$3  $1" | sha256sum -c --status || fail "$2: its SHA-256 is not $3"
}

# release_archive NAME URL SHA256: unpacks the archive into $work/NAME.
release_archive() {
    fetch "$work/download" "$2" "$3"
    mkdir "$work/$1"
    tar -xf "$work/download" -C "$work/$1" --strip-components=1
}

# The folder of the library inside the Python environment's onnxruntime; nothing where there is none, or an older one.
environment_library_folder() {
    for python in "$root/.venv/bin/python" python3; do
        folder=$("$python" -c 'import importlib.util, pathlib
spec = importlib.util.find_spec("onnxruntime")
print(pathlib.Path(spec.origin).parent / "capi" if spec and spec.origin else "")' 2>/dev/null) || continue
        minor=$(ls "$folder" 2>/dev/null | sed -n 's/^libonnxruntime\.so\.1\.\([0-9]*\)\..*/\1/p' | head -n 1)
        if [ "${minor:-0}" -ge "$onnxruntime_oldest" ]; then
            echo "$folder"
            return
        fi
    done
}

# The same inside the pinned wheel, a zip file that is unpacked here.
wheel_library_folder() {
    case $(uname -m) in
    x86_64) folder=$onnxruntime_folder_x86_64 sha256=$onnxruntime_sha256_x86_64 ;;
    aarch64) folder=$onnxruntime_folder_aarch64 sha256=$onnxruntime_sha256_aarch64 ;;
    *) fail "no onnxruntime for $(uname -m) is pinned; give the path to one with -DONNXRUNTIME_ROOT=" ;;
    esac
    name=onnxruntime-$onnxruntime_version-cp311-cp311-manylinux_2_28_$(uname -m).whl
    fetch "$work/$name" "https://files.pythonhosted.org/packages/$folder/$name" $sha256
    mkdir "$work/wheel"
    (cd "$work/wheel" && "${CMAKE:-cmake}" -E tar xf "../$name") || fail "$name cannot be unpacked; cmake is needed"
    echo "$work/wheel/onnxruntime/capi"
}

# share FILE NEW: the same file under another name, which stays when the first goes and when either is moved.
share() {
    ln "$1" "$2" 2>/dev/null || cp "$1" "$2"
}

get_onnxruntime() {
    result=$work/result-onnxruntime
    mkdir -p "$result/lib"
    if debian_package libonnxruntime-dev; then
        cp -r "$work/libonnxruntime-dev/usr/include/onnxruntime" "$result/include"
    else
        release_archive headers "https://github.com/microsoft/onnxruntime/releases/download/v$headers_version/\
onnxruntime-linux-x64-$headers_version.tgz" $headers_sha256
        cp -r "$work/headers/include" "$result/include"
    fi
    folder=$(environment_library_folder)
    [ -n "$folder" ] || folder=$(wheel_library_folder)
    # A wheel's file lacks the name that programs ask for; and onnxruntime looks for its providers beside itself.
    share "$folder"/libonnxruntime.so.1.* "$result/lib/libonnxruntime.so.1"
    for provider in "$folder"/libonnxruntime_providers_*.so; do
        [ ! -e "$provider" ] || share "$provider" "$result/lib/${provider##*/}"
    done
    place onnxruntime
}

get_json() {
    result=$work/result-json
    mkdir -p "$result"
    if debian_package nlohmann-json3-dev; then
        cp -r "$work/nlohmann-json3-dev/usr/include" "$result/include"
    else
        release_archive json "https://github.com/nlohmann/json/releases/download/v$json_version/json.tar.xz" \
            $json_sha256
        cp -r "$work/json/include" "$result/include"
    fi
    place json
}

get_httplib() {
    result=$work/result-httplib
    mkdir -p "$result/include"
    header=$result/include/httplib.h
    if debian_source cpp-httplib && cp "$work/cpp-httplib/httplib.h" "$header" &&
        echo "$httplib_sha256  $header" | sha256sum -c --status; then
        : # a later point release of Debian may have another version
    else
        fetch "$header" "https://raw.githubusercontent.com/yhirose/cpp-httplib/v$httplib_version/httplib.h" \
            $httplib_sha256
    fi
    place httplib
}

# place NAME: what was gathered becomes .deps/NAME; a half-copied folder never bears that name.
place() {
    rm -rf "${deps:?}/$1"
    mv "$result" "$deps/$1"
}

[ $# -gt 0 ] || set -- usage
for name in "$@"; do
    case $name in
    onnxruntime) get_onnxruntime ;;
    json) get_json ;;
    httplib) get_httplib ;;
    *)
        echo "usage: get_native_deps.sh onnxruntime|json|httplib ..." >&2
        exit 2
        ;;
    esac
done
