#!/bin/bash
# Runs inside the booted system of tests/systemd.rs and notes facts, one `name=value` a line, which the
# test then compares with what they should be. Judges nothing itself.
set -u

note() { printf '%s=%s\n' "$1" "$2"; }
property() { systemctl show --property="$2" --value "$1"; }

# run NAME COMMAND...: notes the command's exit code, and its output as one line.
run() {
    local name=$1 output code
    shift
    output=$(timeout 20 "$@" 2>&1)
    code=$?
    note "$name.code" "$code"
    note "$name.output" "${output//$'\n'/ | }"
}

# until_active UNIT: waits, with a deadline.
until_active() {
    local deadline=$((SECONDS + 20))
    until [[ $(systemctl is-active "$1") == active ]] || ((SECONDS >= deadline)); do sleep 0.02; done
}

systemd-sysusers ipcd.conf
note uid "$(id -u ipcd)"

run socket.start systemctl start ipcd.socket
note socket.mode "$(stat -c %a /run/ipcd/ipcd.sock)"
note service.before "$(systemctl is-active ipcd.service)"

# The first client is what starts the daemon.
run create ipcctl create orders --capacity 64KiB --mode 0622
note service.after "$(systemctl is-active ipcd.service)"
note service.type "$(property ipcd.service Type)"
main=$(property ipcd.service MainPID)
for field in Uid NoNewPrivs Seccomp CapEff CapBnd; do
    note "process.$field" "$(sed -n "s/^$field:\s*\(\S*\).*/\1/p" "/proc/$main/status")"
done
note process.executable "$(readlink "/proc/$main/exe")"
# Soft and hard; systemd itself can give no more than it has, where it lacks CAP_SYS_RESOURCE.
for who in "$main" 1; do
    note "files.$who" "$(sed -n 's/^Max open files *\([0-9]*\) *\([0-9]*\).*/\1 \2/p' "/proc/$who/limits")"
done
note process.pid "$main"

run list ipcctl list --json
run send ipcctl send orders 'first message'
run receive ipcctl receive orders --timeout 10s
run nobody.send setpriv --reuid=nobody --regid=nogroup --clear-groups ipcctl send orders 'from nobody'
run nobody.receive setpriv --reuid=nobody --regid=nogroup --clear-groups ipcctl receive orders --timeout 10s
run receive.json ipcctl receive orders --timeout 10s --json
note nobody.uid "$(id -u nobody)"
note security "$(systemd-analyze security --no-pager ipcd.service | tail -n 1)"

# A crash: systemd starts it again.
run crash systemctl kill --signal=SIGKILL --kill-whom=main ipcd.service
deadline=$((SECONDS + 20))
until [[ $(property ipcd.service NRestarts) == 1 ]] || ((SECONDS >= deadline)); do sleep 0.02; done
until_active ipcd.service
note crash.restarts "$(property ipcd.service NRestarts)"
run crash.list ipcctl list --json

# An orderly stop, and the socket that brings it back.
run stop systemctl stop ipcd.service
note stop.result "$(property ipcd.service Result)"
note stop.main_code "$(property ipcd.service ExecMainCode)"
note stop.status "$(property ipcd.service ExecMainStatus)"
note stop.state "$(systemctl is-active ipcd.service)"
run again.list ipcctl list --json
note again.service "$(systemctl is-active ipcd.service)"
run all.stop systemctl stop ipcd.socket ipcd.service
run all.list ipcctl list --json
note all.socket "$(ls /run/ipcd/ipcd.sock 2>/dev/null)"

journalctl --sync
journalctl --no-pager --output=cat --unit=ipcd.service | sed 's/^/journal: /'
note end reached
