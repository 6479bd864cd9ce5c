mkdir -p "$dir/files" "$dir/bin" || exit 73
: >>"$dir/.rbee-hive" || exit 73
# What an upload that was cut left behind. Whoever still writes to one writes to no name.
find "$dir/files" "$dir/bin" -mindepth 1 -maxdepth 1 -name '*.tmp' -exec rm -rf {} +
while read -r sha bytes; do
  file=$dir/files/$sha
  if [ -f "$file" ] && [ "$(size "$file")" = "$bytes" ] && [ "$(sum "$file")" = "$sha" ]; then continue; fi
  rm -f "$file"
  say missing "$sha"
done
