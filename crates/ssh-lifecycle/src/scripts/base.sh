# What several scripts need. $dir is the hive's directory, absolute or below the home.
set -f
case $dir in /*) ;; *) dir=$HOME/$dir ;; esac
json=$dir/hive.json

# When a process started, in the unit of its system: ticks on Linux, seconds on macOS. Nothing if it has ended.
start_of() {
  if [ -r /proc/self/stat ]; then
    [ -r "/proc/$1/stat" ] && read -r stat 2>/dev/null <"/proc/$1/stat" || return 0
    set -- ${stat##*) }
    case $1 in Z | X | x) [ "${18}" -gt 1 ] || return 0 ;; esac
    printf %s "${20}"
  else
    case $(ps -o stat= -p "$1" 2>/dev/null) in '' | Z*) return 0 ;; esac
    date -j -f '%a %b %d %T %Y' "$(ps -o lstart= -p "$1" | tr -s ' ' | sed 's/^ //; s/ $//')" +%s 2>/dev/null
  fi
}

boot_of() {
  if [ -r /proc/sys/kernel/random/boot_id ]; then read -r when_up </proc/sys/kernel/random/boot_id && printf %s "$when_up"
  else sysctl -n kern.bootsessionuuid 2>/dev/null; fi
}

# Whether PID, START and BOOT are of one living process.
is_same() {
  case $1 in '' | *[!0-9]*) return 1 ;; esac
  case $2 in '' | *[!0-9]*) return 1 ;; esac
  [ "$(boot_of)" = "$3" ] || return 1
  now=$(start_of "$1")
  [ -n "$now" ] || return 1
  [ "$now" = "$2" ] || [ "$now" = "$(($2 / 1000000))" ]
}

# A field of hive.json.
field() {
  tr -d '\r\n' <"$json" 2>/dev/null | sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p"
}

# What hive.json says, and whether that process still lives.
tell_hive() {
  [ -f "$json" ] || return 0
  say hive "$(tr -d '\r\n' <"$json")"
  if is_same "$(field pid)" "$(field start_time)" "$(field boot_id)"; then say alive "$(field pid)"; fi
}

# A start may be under way that somebody began who is gone. It comes to its end by itself within so many seconds, and what there
# is to tell is told then.
await_start() {
  patience=$(($(date +%s) + $1))
  while [ -f "$dir/starting" ] && [ "$(date +%s)" -le "$patience" ]; do
    starter='' since='' when=''
    read -r starter since when 2>/dev/null <"$dir/starting"
    is_same "$starter" "$since" "$when" || return 0
    if is_same "$(field pid)" "$(field start_time)" "$(field boot_id)"; then return 0; fi
    nap
  done
}

bounded() {
  if command -v timeout >/dev/null 2>&1; then timeout "$@"; else shift; "$@"; fi
}

sum() {
  if command -v sha256sum >/dev/null 2>&1; then sha256sum <"$1"
  elif command -v shasum >/dev/null 2>&1; then shasum -a 256 <"$1"
  else openssl dgst -sha256 -r <"$1"; fi | cut -c 1-64
}

# Whether FILE holds the bytes whose SHA-256 is SUM. They are read once in each life of the machine, unless the file changed
# since: an engine is large, and reading it would hold up every start. What a crash of the machine may have left is read.
holds() {
  once=$dir/verified/$2
  life=$(boot_of)
  if [ "$once" -nt "$1" ] && read -r seen <"$once" && [ -n "$seen" ] && [ "$seen" = "$life" ]; then return 0; fi
  mkdir -p "$dir/verified" && printf '%s\n' "$life" >"$once.tmp" || return 1
  [ "$(sum "$1")" = "$2" ] && mv -f "$once.tmp" "$once"
}

size() { wc -c <"$1" | tr -d ' '; }

nap() { sleep 0.05 2>/dev/null || sleep 1; }

tell_log() {
  while IFS= read -r line; do say log "$line"; done
}
