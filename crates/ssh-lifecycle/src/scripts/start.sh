cd "$dir" || exit 73
# Whoever looks for a hive from here on waits until it is known whether there is one.
trap 'rm -f "$dir/starting"' EXIT
printf '%s\n' "$$ $(start_of "$$") $(boot_of)" >"$dir/starting" || exit 73
secret=$dir/secret-$launch
cat >"$secret" || exit 73
log=$dir/hive.log
: >>"$log" || exit 73
before=$(size "$log")
if [ -n "$exports" ]; then export $exports; fi
eval "set -- $arguments"
hive=$dir/bin/$bundle/rbee-hive
# Engines that came along are found before others.
PATH=$dir/bin/$bundle:$PATH
if command -v setsid >/dev/null 2>&1; then
  setsid nohup "$hive" "$@" >>"$log" 2>&1 </dev/null &
elif command -v perl >/dev/null 2>&1; then
  nohup perl -e 'use POSIX (); POSIX::setsid(); exec { $ARGV[0] } @ARGV' "$hive" "$@" >>"$log" 2>&1 </dev/null &
else
  nohup "$hive" "$@" >>"$log" 2>&1 </dev/null &
fi
pid=$!
# Nobody may listen any more; the hive is looked after to the end all the same. It does not inherit this.
trap '' PIPE
say pid "$pid"
end=$(($(date +%s) + listen))
round=0
while :; do
  if [ -f "$json" ] && [ "$(field launch_id)" = "$launch" ]; then
    say state listening
    tell_hive
    # What no hive of this directory needs any more.
    find "$dir/bin" -mindepth 1 -maxdepth 1 -type d ! -name "$bundle" -exec rm -rf {} +
    find "$dir/files" -type f -links 1 -exec rm -f {} +
    for seen in $(ls "$dir/verified" 2>/dev/null); do [ -f "$dir/files/$seen" ] || rm -f "$dir/verified/$seen"; done
    exit 0
  fi
  if [ -z "$(start_of "$pid")" ]; then
    wait "$pid"
    say code $?
    say state ended
    break
  fi
  # Whatever is run here takes time from the hive that is starting.
  round=$((round + 1))
  if [ $((round % 8)) = 0 ] && [ "$(date +%s)" -ge "$end" ]; then
    kill -KILL "$pid"
    say state late
    break
  fi
  nap
done
rm -f "$secret"
tail -c "+$((before + 1))" "$log" | tail -n 20 | tell_log
