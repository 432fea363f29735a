#!/bin/sh
# A true small machine: Debian 12 with cgroup v2 under QEMU's software emulation, reached over SSH.
# Slow (about a fifteenth of this machine) and exact: what a VM of 256 MB really leaves, and what its kernel
# kills. Not part of `make test`; docs/decisions/0002-vm-256.md says what was seen.
#
#   lab/vm.sh build            once: packages, kernel and root file system (needs root; ten minutes at most)
#   lab/vm.sh start [256]      a fresh machine of that many MB; its data of before is gone
#   lab/vm.sh ssh [COMMAND]    a shell, or one command, on it
#   lab/vm.sh inventory        prints an Ansible inventory with it in the group web
#   lab/vm.sh stop             ends it
set -eu

here="${VM_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/farrier/vm}"
tree="$here/tree"
ssh_port="${VM_SSH_PORT:-2226}"
app_port="${VM_APP_PORT:-8026}"
options="-i $here/key -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR"

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

packages() {
  command -v qemu-system-x86_64 >/dev/null && command -v debootstrap >/dev/null && return
  apt-get update -q && apt-get install -yq --no-install-recommends qemu-system-x86 qemu-utils debootstrap
}

inside() { # inside COMMAND...: in the new root, with no service started
  DEBIAN_FRONTEND=noninteractive chroot "$tree" "$@"
}

root_tree() {
  rm -rf "$tree" && mkdir -p "$tree"
  debootstrap --include=python3,python3-venv,python3-apt,ca-certificates,dbus,systemd-sysv,iproute2,procps,git \
    bookworm "$tree"
  printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
  chmod +x "$tree/usr/sbin/policy-rc.d"
  cp /etc/resolv.conf "$tree/etc/resolv.conf"
  # The certificates of this machine, for a registry that is reached through a company's proxy.
  cp /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/ca-certificates.crt"
  mount -t proc proc "$tree/proc"
  trap 'umount "$tree/proc"' EXIT
  inside apt-get install -yq --no-install-recommends initramfs-tools zstd
  printf 'virtio_pci\nvirtio_blk\nvirtio_net\next4\n' >>"$tree/etc/initramfs-tools/modules"
  inside apt-get install -yq --no-install-recommends linux-image-cloud-amd64 openssh-server udev kmod sudo
  inside apt-get clean
  umount "$tree/proc"
  trap - EXIT
}

configure() {
  test -f "$here/key" || ssh-keygen -q -t ed25519 -N '' -C 'farrier lab vm' -f "$here/key"
  install -d -m 700 "$tree/root/.ssh"
  cp "$here/key.pub" "$tree/root/.ssh/authorized_keys"
  echo '/dev/vda / ext4 defaults,noatime 0 1' >"$tree/etc/fstab"
  echo farrier-vm >"$tree/etc/hostname"
  # QEMU's own resolver; the network is its user-mode one.
  echo 'nameserver 10.0.2.3' >"$tree/etc/resolv.conf"
  printf '[Match]\nType=ether\n[Network]\nDHCP=ipv4\n' >"$tree/etc/systemd/network/20-ether.network"
  : >"$tree/etc/machine-id"
  rm -f "$tree/usr/sbin/policy-rc.d"
  inside systemctl enable systemd-networkd serial-getty@ttyS0 ssh
  inside systemctl mask apt-daily.timer apt-daily-upgrade.timer
}

build() {
  test "$(id -u)" = 0 || die "lab/vm.sh build: run as $(id -un); it needs root to make a file system"
  mkdir -p "$here"
  packages
  root_tree
  configure
  cp "$tree"/boot/vmlinuz-* "$here/vmlinuz"
  cp "$tree"/boot/initrd.img-* "$here/initrd.img"
  rm -f "$here/base.ext4"
  mke2fs -q -F -t ext4 -L root -E root_owner=0:0 -d "$tree" "$here/base.ext4" 4G
  rm -rf "$tree"
  say "built $here/base.ext4"
}

running() { test -f "$here/vm.pid" && kill -0 "$(cat "$here/vm.pid")" 2>/dev/null; }

start() {
  memory="${1:-256}"
  case "$memory" in '' | *[!0-9]*) die "lab/vm.sh start $memory: a whole number of MB, 128 or more" ;; esac
  test "$memory" -ge 128 || die "lab/vm.sh start $memory: 128 MB or more; less does not boot"
  test -f "$here/base.ext4" || die "no image in $here: lab/vm.sh build makes it"
  running && die "it runs already (pid $(cat "$here/vm.pid")): lab/vm.sh stop ends it"
  qemu-img create -q -f qcow2 -b "$here/base.ext4" -F raw "$here/vm.qcow2"
  # qemu64 boots 8 s sooner than a fuller CPU; tb-size bounds QEMU's own memory.
  qemu-system-x86_64 -machine q35 -accel tcg,thread=multi,tb-size=256 -cpu qemu64 -smp 1 -m "$memory" \
    -display none -nodefaults -serial "file:$here/console" -kernel "$here/vmlinuz" -initrd "$here/initrd.img" \
    -append "root=/dev/vda rw console=ttyS0 mitigations=off quiet" \
    -drive "file=$here/vm.qcow2,if=virtio,format=qcow2,cache=unsafe,discard=unmap" \
    -netdev "user,id=n0,hostfwd=tcp:127.0.0.1:$ssh_port-:22,hostfwd=tcp:127.0.0.1:$app_port-:8000" \
    -device virtio-net-pci,netdev=n0 -device virtio-rng-pci -pidfile "$here/vm.pid" -daemonize
  tries=0
  # shellcheck disable=SC2086
  until ssh $options -o ConnectTimeout=5 -p "$ssh_port" root@127.0.0.1 true 2>/dev/null; do
    tries=$((tries + 1))
    test "$tries" -lt 60 || die "no SSH after 60 tries: see $here/console"
    sleep 2
  done
  say "up: lab/vm.sh ssh; the app will be at http://127.0.0.1:$app_port/"
}

inventory() {
  cat <<END
web:
  hosts:
    vm:
      ansible_host: 127.0.0.1
      ansible_port: $ssh_port
      ansible_user: root
      ansible_ssh_private_key_file: $here/key
      ansible_ssh_common_args: -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no
      gunicorn_app_name: guestbook
      gunicorn_app_app: guestbook:app
      gunicorn_app_path: $(cd "$(dirname "$0")/.." && pwd)/examples/flask_app
      gunicorn_app_settings: {worker_class: gthread}
      gunicorn_app_ready: [guestbook:ready]
      gunicorn_app_bind: 0.0.0.0:8000
      gunicorn_app_shared: [data]
      gunicorn_app_ca_bundle: /etc/ssl/certs/ca-certificates.crt
END
}

command="${1:-}"
test $# -eq 0 || shift
case "$command" in
  build) build ;;
  start) start "$@" ;;
  # shellcheck disable=SC2086
  ssh) exec ssh $options -p "$ssh_port" root@127.0.0.1 "$@" ;;
  inventory) inventory ;;
  stop) running && kill "$(cat "$here/vm.pid")" || say "it does not run" ;;
  *) die "lab/vm.sh ${command:-(nothing)}: one of build, start [MB], ssh [COMMAND], inventory, stop" ;;
esac
