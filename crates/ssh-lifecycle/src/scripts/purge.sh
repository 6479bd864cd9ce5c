[ -d "$dir" ] || exit 0
if is_same "$(field pid)" "$(field start_time)" "$(field boot_id)"; then say alive "$(field hive_id)"; exit 0; fi
if [ ! -f "$dir/.rbee-hive" ] && [ ! -f "$dir/hive.lock" ]; then say foreign yes; exit 0; fi
if [ -x "$dir/bin/current/rbee-hive" ]; then "$dir/bin/current/rbee-hive" reap --data-dir "$dir" </dev/null >/dev/null; fi
rm -rf "$dir"
[ ! -e "$dir" ]
