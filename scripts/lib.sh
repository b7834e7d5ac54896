# Shared by the scripts of this folder; source it.
say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${ATTESTBOX_CACHE:-$root/out/cache}
# mke2fs and debugfs lie where a user's PATH may not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# need PROGRAM PACKAGE...: installs the packages when root and the program is
# missing, else says what to run.
missing=()
need() {
  command -v "$1" >/dev/null 2>&1 || missing+=("${@:2}")
}
install_missing() {
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    die "these Debian packages are missing: ${missing[*]}
       run: sudo apt-get install --no-install-recommends ${missing[*]}"
  fi
  say "installing Debian packages: ${missing[*]}"
  mkdir -p "$cache"
  if ! DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >"$cache/apt-install.log" 2>&1; then
    apt-get update >>"$cache/apt-install.log" 2>&1 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >>"$cache/apt-install.log" 2>&1 ||
      die "apt-get install ${missing[*]} failed; see $cache/apt-install.log"
  fi
}

# check_go: the version of go.mod, before anything else is tried.
check_go() {
  command -v go >/dev/null 2>&1 || die "Go is missing: attestbox needs $(sed -n 's/^go //p' "$root/go.mod") or later (https://go.dev/dl/)"
  local want have
  want=$(sed -n 's/^go //p' "$root/go.mod")
  have=$(GOTOOLCHAIN=local go env GOVERSION | sed 's/^go//')
  [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" = "$want" ] ||
    die "Go $have is too old: attestbox needs $want or later (https://go.dev/dl/)"
}
