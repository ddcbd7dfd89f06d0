#!/usr/bin/env bash
# Fetches the C++ headers of ONNX Runtime, which its Python package lacks, from Debian's package libonnxruntime-dev.
# They are unpacked into the folder named, not installed; this system's own list of packages is left as it is.
#
#     headers.sh FOLDER
set -euo pipefail
target=$(mkdir -p "$1" && cd "$1" && pwd)
[ -e "$target/include/onnxruntime_cxx_api.h" ] && exit 0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial"
# Debian 12 has no such package. Headers of any version fit a newer library: its interface in C only grows.
echo "deb http://deb.debian.org/debian trixie main" > "$scratch/sources.list"
options=(-q -o "Dir::Etc::SourceList=$scratch/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$scratch/lists"
  -o "Dir::Cache=$scratch/cache" -o APT::Sandbox::User=root)
apt-get "${options[@]}" update > /dev/null
(cd "$scratch" && apt-get "${options[@]}" download libonnxruntime-dev > /dev/null)
dpkg-deb -x "$scratch"/libonnxruntime-dev_*.deb "$scratch/unpacked"
mkdir -p "$target/include"
cp -r "$scratch/unpacked/usr/include/onnxruntime/." "$target/include/"
