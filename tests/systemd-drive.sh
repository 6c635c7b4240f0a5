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

# Somebody sends and somebody receives from here on, whatever becomes of the daemon.
run traffic.create ipcctl create traffic
ipcctl receive traffic --follow >/var/received 2>/var/received.err &
receiver=$!
feed() {
    local number=0
    until [[ -e /run/enough ]]; do
        for _ in {1..50}; do echo $((number += 1)); done
        sleep 0.01
    done
    echo "$number" >/run/sent
}
feed | ipcctl send traffic --lines 2>/var/sent.err &
sender=$!
# goes_on NAME: notes whether more arrives than has arrived so far.
goes_on() {
    local before deadline=$((SECONDS + 20))
    before=$(wc -l </var/received)
    until (($(wc -l </var/received) > before)) || ((SECONDS >= deadline)); do sleep 0.02; done
    note "$1" "$(($(wc -l </var/received) > before))"
}
goes_on traffic.begun

# A crash: systemd starts it again, with all that it had.
run crash systemctl kill --signal=SIGKILL --kill-whom=main ipcd.service
deadline=$((SECONDS + 20))
until [[ $(property ipcd.service NRestarts) == 1 ]] || ((SECONDS >= deadline)); do sleep 0.02; done
until_active ipcd.service
note crash.restarts "$(property ipcd.service NRestarts)"
run crash.list ipcctl list --json
goes_on crash.traffic

# It hangs: the watchdog kills it, and systemd starts it again.
mkdir -p /etc/systemd/system/ipcd.service.d
printf '[Service]\nWatchdogSec=1s\n' >/etc/systemd/system/ipcd.service.d/test.conf
systemctl daemon-reload
run upgrade.first ipcctl daemon upgrade --json
until_active ipcd.service
main=$(property ipcd.service MainPID)
run hang kill -STOP "$main"
goes_on hang.traffic
deadline=$((SECONDS + 30))
until [[ $(property ipcd.service MainPID) != "$main" ]] || ((SECONDS >= deadline)); do sleep 0.02; done
until_active ipcd.service
note hang.replaced "$(($(property ipcd.service MainPID) != main))"
run hang.list ipcctl list --json
goes_on hang.after
rm /etc/systemd/system/ipcd.service.d/test.conf
systemctl daemon-reload

# An upgrade on purpose, and crash upon crash.
main=$(property ipcd.service MainPID)
run upgrade ipcctl daemon upgrade --json
note upgrade.replaced "$(($(property ipcd.service MainPID) != main))"
for _ in 1 2 3 4 5; do
    main=$(property ipcd.service MainPID)
    kill -KILL "$main"
    deadline=$((SECONDS + 20))
    until [[ $(property ipcd.service MainPID) != "$main" ]] || ((SECONDS >= deadline)); do sleep 0.02; done
    until_active ipcd.service
done
run upgrade.list ipcctl list --json
goes_on upgrade.traffic
touch /run/enough
wait "$sender"
note traffic.sender "$?"
run traffic.close ipcctl close traffic
wait "$receiver"
note traffic.receiver "$?"
note traffic.sent "$(cat /run/sent)"
note traffic.same "$(seq "$(cat /run/sent)" | cmp - /var/received 2>&1 && echo same)"

# systemd's own restart is an orderly stop first: what was there has ended, also in the store.
run restart systemctl restart ipcd.service
run restart.list ipcctl list --json
note restart.kept "$(property ipcd.service NFileDescriptorStore)"

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
