#!/bin/sh
# Puts attune into a container or onto a Linux or macOS host that has a POSIX shell, curl or wget, and nothing else; then runs what is named
# behind it:
#
#     ATTUNE_URL=https://files.example.com/attune/v1.2.3 sh attune-bootstrap.sh attune-run core.echo -p message=hello
#
#   ATTUNE_URL          where the release's files are: SHA256SUMS and attune-run-linux-amd64, …  (required)
#   ATTUNE_PROGRAMS     which programs, separated by spaces; attune-run unless said
#   ATTUNE_DIR          where they go; /usr/local/bin unless said
#   ATTUNE_SUMS_SHA256  the SHA-256 of SHA256SUMS itself: pins all programs for all architectures, whoever serves them. Set
#                       it where wget is busybox's, which checks no server's certificate
#   ATTUNE_TOKEN        sent as "Authorization: Bearer …". Curl and GNU wget keep it off their command lines, busybox's wget cannot
#   ATTUNE_RETRIES      how often a download is tried again; 5 unless said
#
# A program that is there already with the right checksum is left alone. Nothing is installed whose checksum is wrong or not known.
set -eu

fail() { # message
    printf 'attune-bootstrap: error: %s\n' "$1" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

sha256() { # file → its digest
    if have sha256sum; then
        sum=$(sha256sum <"$1")
    elif have shasum; then
        sum=$(shasum -a 256 <"$1")
    elif have openssl; then
        sum=$(openssl dgst -sha256 -r <"$1")
    else
        fail 'nothing here computes SHA-256: install sha256sum, shasum or openssl'
    fi
    echo "${sum%% *}"
}

system() {
    case "$(uname -s)" in
    Linux) echo linux ;;
    Darwin) echo darwin ;;
    *) fail "there is no attune for $(uname -s); there is one for Linux, and attune-run for macOS" ;;
    esac
}

architecture() {
    case "$(uname -m)" in
    x86_64 | amd64) echo amd64 ;;
    aarch64 | arm64) echo arm64 ;;
    *) fail "there is no attune for $(uname -m); there is one for x86_64 and aarch64" ;;
    esac
}

# The token goes to curl through stdin and to GNU wget through a file of ours, so that no process list shows it. A redirect never
# takes it to another host: curl drops it there, GNU wget is told not to follow.
download() { # url file
    if have curl; then
        token_for_curl | curl --config - -fsSL --connect-timeout 20 --speed-limit 1 --speed-time 60 -o "$2" "$1"
    elif wget --version 2>/dev/null | grep -q GNU; then
        (umask 077 && token_for_wget >"$work/wgetrc")
        WGETRC="$work/wgetrc" wget -nv -t 1 -T 60 -O "$2" "$1"
    else
        wget -O "$2" ${ATTUNE_TOKEN:+--header "Authorization: Bearer $ATTUNE_TOKEN"} "$1"
    fi
}

token_for_curl() {
    [ -z "${ATTUNE_TOKEN:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$ATTUNE_TOKEN"
}

token_for_wget() {
    [ -z "${ATTUNE_TOKEN:-}" ] || printf 'header = Authorization: Bearer %s\nmax_redirect = 0\n' "$ATTUNE_TOKEN"
}

fetch() { # url file: tries again what may go better the next time
    left=$retries pause=1
    until download "$1" "$2" 2>"$work/said"; do
        said=$(tail -n 1 "$work/said")
        case "$said" in
        *rror:\ 40[0134]* | *RROR\ 40[0134]* | *HTTP/1.?\ 40[0134]* | *uthentication\ Failed*) fail "download $1: $said" ;;
        esac
        [ "$left" -gt 0 ] || fail "download $1: $said"
        printf 'attune-bootstrap: download %s: %s; trying again in %s s\n' "$1" "$said" "$pause" >&2
        sleep "$pause"
        left=$((left - 1)) pause=$((pause * 2))
    done
}

expected() { # file → the digest that SHA256SUMS gives for it
    while read -r sum name; do
        [ "${name#\*}" != "$1" ] || echo "$sum"
    done <"$work/SHA256SUMS"
}

install_program() { # name
    file="$1-$system-$arch"
    want=$(expected "$file")
    [ -n "$want" ] || fail "$ATTUNE_URL/SHA256SUMS does not name $file"
    if [ -x "$dir/$1" ] && [ "$(sha256 "$dir/$1")" = "$want" ]; then
        return
    fi
    fetch "$ATTUNE_URL/$file" "$work/$1"
    got=$(sha256 "$work/$1")
    [ "$got" = "$want" ] || fail "$ATTUNE_URL/$file has the SHA-256 $got, not $want: refused"
    chmod 0755 "$work/$1"
    mv -f "$work/$1" "$dir/$1" # of one file system, so nobody ever sees half a program
    if [ "$1" = attune-run ]; then
        ln -sf attune-run "$dir/attune"
    fi
}

[ -n "${ATTUNE_URL:-}" ] || fail 'ATTUNE_URL is not set: say where the files of a release are'
ATTUNE_URL=${ATTUNE_URL%/}
have curl || have wget || fail 'neither curl nor wget is here: install one, or copy the programs into the image'
case "${ATTUNE_TOKEN:-}" in
*[!A-Za-z0-9._~+/=-]*) fail 'ATTUNE_TOKEN holds characters that no bearer token has (RFC 6750)' ;;
esac
retries=${ATTUNE_RETRIES:-5}
case "$retries" in
'' | *[!0-9]*) fail "ATTUNE_RETRIES is a number, not $retries" ;;
esac
system=$(system) arch=$(architecture)

dir=${ATTUNE_DIR:-/usr/local/bin}
mkdir -p "$dir" 2>/dev/null || fail "cannot make $dir: set ATTUNE_DIR to a directory you may write"
work=$(mktemp -d "$dir/.attune-XXXXXX" 2>/dev/null) || fail "cannot write to $dir: set ATTUNE_DIR to a directory you may write"
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

fetch "$ATTUNE_URL/SHA256SUMS" "$work/SHA256SUMS"
if [ -n "${ATTUNE_SUMS_SHA256:-}" ]; then
    got=$(sha256 "$work/SHA256SUMS")
    [ "$got" = "$ATTUNE_SUMS_SHA256" ] || fail "$ATTUNE_URL/SHA256SUMS has the SHA-256 $got, not $ATTUNE_SUMS_SHA256: refused"
fi
for program in ${ATTUNE_PROGRAMS:-attune-run}; do
    install_program "$program"
done

[ $# -gt 0 ] || exit 0
rm -rf "$work"
trap - EXIT HUP INT TERM
# The release's credentials are not the business of what runs now.
unset ATTUNE_TOKEN
PATH="$dir:$PATH" exec "$@"
