#!/bin/sh
# Fetches into .deps/ what the scorer needs and the system lacks; nothing is installed. CMake calls it with one or both:
#   get_native_deps.sh onnxruntime   makes .deps/onnxruntime/include and lib
#   get_native_deps.sh json          makes .deps/json/include (nlohmann/json)
# Headers come from Debian's packages, through the machine's own mirror and apt's signature check, else from the
# official release archive. The library comes from the Python environment's onnxruntime, else from that archive.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
deps=$root/.deps
debian_suite=trixie # the first Debian release with onnxruntime's headers
debian_default_mirror=http://deb.debian.org/debian
debian_keys=/usr/share/keyrings/debian-archive-keyring.gpg
onnxruntime_version=1.20.1
onnxruntime_sha256_x64=67db4dc1561f1e3fd42e619575c82c601ef89849afc7ea85a003abbac1a1a105
onnxruntime_sha256_aarch64=ae4fedbdc8c18d688c01306b4b50c63de3445cdf2dbd720e01a2fa3810b8106a
json_version=3.11.3
json_sha256=d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d

work=$(mktemp -d)
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
    for tool in apt-get dpkg dpkg-deb; do command -v $tool >/dev/null || return 1; done
    [ -r $debian_keys ] || return 1
    if [ ! -f "$work/apt/sources.list" ]; then
        mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
        mirror=$(debian_mirror)
        echo "deb [signed-by=$debian_keys] ${mirror:-$debian_default_mirror} $debian_suite main" \
            >"$work/apt/sources.list"
        private_apt update || return 1
    fi
    (cd "$work" && private_apt download "$1") && dpkg-deb -x "$work/$1"_*.deb "$work/$1"
}

private_apt() {
    apt-get -qq -o Dir::State="$work/apt" -o Dir::State::lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" \
        -o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=- -o APT::Sandbox::User="$(id -un)" \
        -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "$@" >"$work/apt.log" 2>&1
}

# release_archive NAME URL SHA256: unpacks the archive into $work/NAME.
release_archive() {
    [ ! -d "$work/$1" ] || return 0
    if command -v curl >/dev/null; then
        curl -fsL --retry 1 --connect-timeout 20 -o "$work/download" "$2"
    elif command -v wget >/dev/null; then
        wget -q --timeout=20 -O "$work/download" "$2"
    else
        fail "neither curl nor wget is there to fetch $2; install one (apt install curl)"
    fi || fail "$2 cannot be fetched; give the path to what it holds with -DONNXRUNTIME_ROOT= and -DJSON_ROOT="
    echo "$3  $work/download" | sha256sum -c --status || fail "$2: its SHA-256 is not $3"
    mkdir "$work/$1"
    tar -xf "$work/download" -C "$work/$1" --strip-components=1
}

onnxruntime_archive() {
    case $(uname -m) in
    x86_64) platform=x64 sha256=$onnxruntime_sha256_x64 ;;
    aarch64) platform=aarch64 sha256=$onnxruntime_sha256_aarch64 ;;
    *) fail "no onnxruntime release for $(uname -m) is pinned; give the path to one with -DONNXRUNTIME_ROOT=" ;;
    esac
    name=onnxruntime-linux-$platform-$onnxruntime_version.tgz
    release_archive onnxruntime "https://github.com/microsoft/onnxruntime/releases/download/v$onnxruntime_version/$name" \
        $sha256
}

# The folder of the library inside the Python environment's onnxruntime; nothing where there is none.
wheel_library_folder() {
    for python in "$root/.venv/bin/python" python3; do
        folder=$("$python" -c 'import importlib.util, pathlib
spec = importlib.util.find_spec("onnxruntime")
print(pathlib.Path(spec.origin).parent / "capi" if spec and spec.origin else "")' 2>/dev/null) || continue
        if ls "$folder"/libonnxruntime.so.1.* >/dev/null 2>&1; then
            echo "$folder"
            return
        fi
    done
}

get_onnxruntime() {
    result=$work/result-onnxruntime
    mkdir -p "$result/lib"
    if debian_package libonnxruntime-dev; then
        cp -r "$work/libonnxruntime-dev/usr/include/onnxruntime" "$result/include"
    else
        onnxruntime_archive
        cp -r "$work/onnxruntime/include" "$result/include"
    fi
    folder=$(wheel_library_folder)
    if [ -n "$folder" ]; then
        # The wheel's file lacks the name that programs ask for; and onnxruntime looks for its providers beside itself.
        ln -s "$folder"/libonnxruntime.so.1.* "$result/lib/libonnxruntime.so.1"
        for provider in "$folder"/libonnxruntime_providers_*.so; do
            [ ! -e "$provider" ] || ln -s "$provider" "$result/lib/"
        done
    else
        onnxruntime_archive
        cp -P "$work/onnxruntime/lib"/libonnxruntime* "$result/lib/"
    fi
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

# place NAME: what was gathered becomes .deps/NAME; a half-copied folder never bears that name.
place() {
    mkdir -p "$deps"
    rm -rf "$deps/$1" "$deps/$1.new"
    cp -r "$result" "$deps/$1.new"
    mv "$deps/$1.new" "$deps/$1"
}

[ $# -gt 0 ] || set -- usage
for name in "$@"; do
    case $name in
    onnxruntime) get_onnxruntime ;;
    json) get_json ;;
    *)
        echo "usage: get_native_deps.sh onnxruntime|json ..." >&2
        exit 2
        ;;
    esac
done
