#!/usr/bin/env bash
# Builds a command of this module into a container image, without a container engine.
#
#   image.sh PACKAGE NAME[:TAG] DIRECTORY    e.g. image.sh ./cmd/manager dgm-operator:dev dist
#
# Writes DIRECTORY/<last part of NAME>.tar (a docker-archive) and prints the reference that is unique to its content,
# NAME:<hash>; the archive has that and NAME:TAG (default dev).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# = 3 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
package=$1 reference=$2 directory=$3
case ${reference##*/} in *:*) ;; *) reference+=:dev ;; esac
name=${reference%:*}
mkdir -p "$directory"
archive=$(cd "$directory" && pwd)/${name##*/}.tar
binary=${archive%.tar}/$(basename "$package")   # stays: go build links only what has changed

CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$binary" "$package"
unique=$name:$(cat "$binary" hack/image/main.go | sha256sum | cut -c1-12)
if [ ! -e "$archive" ] || [ "$(cat "$archive.ref" 2>/dev/null)" != "$unique $reference" ]; then
  go -C hack/image run -buildvcs=false . -out "$archive.new" -tag "$reference" -tag "$unique" "$binary" >/dev/null
  mv "$archive.new" "$archive"
  echo "$unique $reference" >"$archive.ref"
fi
echo "$unique"
