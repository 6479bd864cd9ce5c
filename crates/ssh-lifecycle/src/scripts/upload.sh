part=$dir/files/$sha.$mark.tmp
trap 'rm -f "$part"' EXIT
trap 'exit 1' HUP INT TERM
# Nobody may listen any more; what is here is taken away all the same.
trap '' PIPE
cat >"$part" || exit 73
got=$(size "$part")
got_sha=$(sum "$part")
if [ "$got" != "$bytes" ] || [ "$got_sha" != "$sha" ]; then
  say bytes "$got"
  say sha256 "$got_sha"
  exit 75
fi
chmod 700 "$part" && mv -f "$part" "$dir/files/$sha" || exit 73
