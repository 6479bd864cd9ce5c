tail -n "$lines" "$dir/hive.log" 2>/dev/null | tell_log
