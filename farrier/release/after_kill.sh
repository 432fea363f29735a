# What systemd runs when a deploy's unit has ended: a run that was killed, by whomever, is put right at once.
# A file, because systemd spoils quotes, dollars and semicolons of a transient unit's command at daemon-reload.
case "$SERVICE_RESULT" in
signal | core-dump | oom-kill | timeout) exec "$@" ;;
esac
