is_active() { systemctl is-active --quiet "$1" 2>/dev/null; }
say client "${SSH_CONNECTION%% *}"
if [ "$(uname -s)" = Darwin ]; then say firewall macos
elif command -v ufw >/dev/null 2>&1 && grep -qs '^ENABLED=yes' /etc/ufw/ufw.conf; then say firewall ufw
elif is_active firewalld; then say firewall firewalld
elif command -v nft >/dev/null 2>&1; then say firewall nft
elif command -v iptables >/dev/null 2>&1; then say firewall iptables
fi
