# Shared by the scripts of this folder; source it.
say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${ATTESTBOX_CACHE:-$root/out/cache}
# A module of its own, so that ./... does not look into the systems unpacked there.
[ -e "$root/out/go.mod" ] || { mkdir -p "$root/out" && echo 'module out' >"$root/out/go.mod"; }
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

# debian_mirror: the machine's own mirror, one-line or deb822 style; else Debian's.
debian_mirror() {
  local mirror=${ATTESTBOX_MIRROR:-}
  [ -n "$mirror" ] || mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } |
    sed -n -E 's/^[[:space:]]*(deb[[:space:]]+(\[[^]]*\][[:space:]]+)?|URIs:[[:space:]]*)((https?|file|mirror\+file):[^[:space:]]*\/debian\/?)([[:space:]].*)?$/\3/p' | sed -n 1p)
  printf '%s\n' "${mirror:-http://deb.debian.org/debian}"
}

# private_apt DIR TYPE SUITE: package lists of its own below DIR, with one line
# of TYPE (deb or deb-src) for SUITE's main. The machine's apt sources are never
# touched, and root is not needed. apt and apt_cache then use these lists, and
# private_apt_end gives their space back.
private_apt() {
  apt_dir=$1/apt
  local key=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -r "$key" ] || die "$key is missing (Debian package debian-archive-keyring)"
  mkdir -p "$apt_dir/lists/partial" "$apt_dir/cache/archives/partial"
  printf '%s [signed-by=%s] %s %s main\n' "$2" "$key" "$(debian_mirror)" "$3" >"$apt_dir/sources.list"
  : >"$apt_dir/status"
  apt_options=(-o "Dir::Etc::SourceList=$apt_dir/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State=$apt_dir"
    -o "Dir::State::Lists=$apt_dir/lists" -o "Dir::State::status=$apt_dir/status" -o "Dir::Cache=$apt_dir/cache"
    -o APT::Sandbox::User= -o Acquire::Languages=none -o APT::Architecture=amd64 -o Acquire::Retries=3)
  apt update
}
apt() {
  apt-get -q "${apt_options[@]}" "$@" >>"$apt_dir/log" 2>&1 || die "apt-get $1 failed; see $apt_dir/log"
}
apt_cache() { apt-cache "${apt_options[@]}" "$@"; }
private_apt_end() { rm -rf "$apt_dir/lists" "$apt_dir/cache"; }
