await_start "$listen"
tell_hive
