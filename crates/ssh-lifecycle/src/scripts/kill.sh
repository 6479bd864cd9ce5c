count=0
gone_within() {
  tries=0
  while is_same "$pid" "$start" "$boot"; do
    tries=$((tries + 1))
    [ "$tries" -le "$1" ] || return 1
    nap
  done
}
if is_same "$pid" "$start" "$boot"; then
  kill -TERM "$pid"
  kill -CONT "$pid"
  if ! gone_within 40; then
    kill -KILL "$pid"
    if ! gone_within 100; then say stuck yes; exit 0; fi
  fi
  count=1
fi
say ended "$count"
hive=$dir/bin/current/rbee-hive
if [ -x "$hive" ]; then
  reaped=$("$hive" reap --data-dir "$dir" </dev/null)
  status=$?
  case $status in
    0) say reaped "$reaped" ;;
    # Another hive, which was not meant, holds the directory; its workers are its own.
    73) ;;
    *) exit $status ;;
  esac
fi
