say system "$(uname -s)"
say machine "$(uname -m)"
say user "$(id -un)"
say home "$HOME"
say dir "$dir"
say client "${SSH_CONNECTION%% *}"
case $(ldd --version 2>&1 | head -n 1) in
  *musl*) say libc musl ;;
  *GLIBC* | *GNU* | *glibc*) say libc "gnu $(ldd --version 2>/dev/null | head -n 1 | sed 's/.* //')" ;;
esac
if command -v nvidia-smi >/dev/null 2>&1; then
  bounded 5 nvidia-smi --query-gpu=name,memory.total --format=csv,noheader 2>/dev/null |
    while IFS= read -r gpu; do say gpu "$gpu (cuda)"; done
fi
if [ -e /dev/kfd ]; then say gpu 'an AMD GPU (rocm)'; fi
if [ "$(uname -s)" = Darwin ] && [ "$(uname -m)" = arm64 ]; then say gpu "$(sysctl -n machdep.cpu.brand_string) (metal)"; fi
set +f
for node in /dev/dri/renderD*; do if [ -e "$node" ]; then say gpu 'a GPU with a render node (vulkan)'; break; fi; done
if [ "$(id -u)" != 0 ] && grep -qs '^KillUserProcesses=yes' /etc/systemd/logind.conf /etc/systemd/logind.conf.d/*.conf; then
  say kills yes
fi
set -f
there=$dir
while [ ! -d "$there" ]; do there=$(dirname "$there"); done
set -- $(df -Pk "$there" 2>/dev/null | tail -n 1)
say free_kb "$4"
if [ -r /proc/mounts ]; then
  while read -r _ point _ options _; do if [ "$point" = "$6" ]; then found=$options; fi; done </proc/mounts
  say mount "$found"
fi
if [ ! -w "$there" ]; then say denied "$there"; fi
await_start "$listen"
tell_hive
