# shellcheck shell=bash
# Progress lines with the seconds since T0, and errors that end the script.
say() { local tenths=$((($(date +%s%N) - T0) / 100000000)); printf '%5d.%ds %s\n' $((tenths / 10)) $((tenths % 10)) "$*" >&2; }
die() { echo "error: $*" >&2; exit 1; }
