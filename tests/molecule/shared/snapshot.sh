#!/bin/sh
# What a deploy could have changed on the host, one line each. Logs, caches and what runs are not it.
set -eu
find /etc /srv /opt /usr /var/lib /home /root -xdev \
  \( -path /var/lib/systemd -o -path /root/.ansible -o -path '/home/*/.ansible' -o -path /var/lib/apt \
  -o -name __pycache__ \) -prune -o \
  \( -type f -o -type l -o -type d \) ! -name '*-' ! -name '.pwd.lock' ! -path /etc ! -path /srv ! -path /var/lib \
  ! -path /etc/systemd/system ! -path /usr/local/bin ! -path /usr/local/lib ! -path '/etc/systemd/system/*.wants' \
  -printf '%y %m %u %p %l ' \( -type f -size -512k -exec sha256sum {} \; -o -printf '\n' \) | sort
getent passwd
getent group
systemctl list-unit-files --no-legend --no-pager
systemctl list-units --all --plain --no-legend --no-pager --type service,socket,slice | awk '/farrier|links|guestbook/'
