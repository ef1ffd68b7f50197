#!/usr/bin/env bash
# A Slurm cluster on this machine to test job scripts: slurmctld, several slurmd and munged, all in one folder, without
# systemd, cgroups or files in /etc. Needs Debian's slurmctld, slurmd, slurm-client and munge.
#
#   testbed.sh install              installs these with apt-get, as root
#   testbed.sh installed            lists missing programs and fails if there are any
#   testbed.sh up FOLDER [NODES]    starts a cluster of NODES (4) nodes n1, n2, … with one CPU each, and waits for them
#   testbed.sh run FOLDER COMMAND…  runs a command with that cluster, such as sbatch job.sh
#   testbed.sh down FOLDER          cancels its jobs, ends all processes and removes the folder; --keep-log keeps its log/
#
# Partitions: `work` (default; preempted by `urgent`), `urgent`, and `secret` (hidden, limit of 5 minutes).
set -euo pipefail

# Nodes on one machine need separate ports; the first free block is used.
readonly first_port=26800 last_port=28800
readonly programs=(munged slurmctld slurmd sbatch scontrol squeue)

fail() {
    echo "testbed: $*" >&2
    exit 1
}

# Debian has daemons in /usr/sbin, which users' PATH may lack.
export PATH="$PATH:/usr/sbin:/sbin"

missing() {
    local program
    for program in "${programs[@]}"; do
        command -v "$program" >/dev/null || echo "$program"
    done
}

install() {
    [ -n "$(missing)" ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "$(missing | tr '\n' ' ')missing; install slurmctld, slurmd, slurm-client and munge (on Debian, run this as root)"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge >&2
}

in_use() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# The first of $1 + 1 consecutive free ports.
free_ports() {
    local first port
    for ((first = first_port; first + $1 < last_port; first += $1 + 1)); do
        for ((port = first; port <= first + $1; port++)); do
            in_use "$port" && continue 2
        done
        echo "$first"
        return
    done
    fail "no $(($1 + 1)) free ports between $first_port and $last_port"
}

write_config() {
    local nodes="$1" user port
    user="$(id -un)"
    port="$(free_ports "$nodes")"
    cat >"$folder/slurm.conf" <<END
ClusterName=ctseg
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
# A requeued job waits until the old credentials have expired: 2 minutes by default.
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdSpoolDir=$folder/spool/%n
SlurmdPidFile=$folder/%n.pid
SlurmdLogFile=$folder/log/%n.log
SlurmdParameters=config_overrides
PlugStackConfig=$folder/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
MinJobAge=3600
ReturnToService=2
NodeName=n[1-$nodes] NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=1 RealMemory=65536
PartitionName=work Nodes=ALL Default=YES PriorityTier=1
PartitionName=urgent Nodes=ALL PriorityTier=10
PartitionName=secret Nodes=n1 Hidden=YES MaxTime=5
END
    : >"$folder/plugstack.conf"
}

# Waits up to 60 s until the command succeeds.
wait_for() {
    local what="$1" attempt
    shift
    for ((attempt = 0; attempt < 240; attempt++)); do
        "$@" && return
        sleep 0.25
    done
    fail "$what did not start within 60 s; see $folder/log"
}

all_idle() {
    [ "$(sinfo -h -N -p work -t idle -o %N 2>/dev/null | wc -l)" = "$1" ]
}

up() {
    local nodes="$1" node
    [ -z "$(missing)" ] || fail "$(missing | tr '\n' ' ')missing; install them with 'testbed.sh install' as root"
    [[ "$nodes" =~ ^[1-9][0-9]?$ ]] || fail "$nodes nodes: expected 1 to 99"
    [ ! -e "$folder/slurm.conf" ] || fail "$folder: a cluster exists already; stop it first with 'testbed.sh down'"
    # munged refuses sockets in folders that others can write to.
    mkdir -p "$folder" && chmod 755 "$folder"
    mkdir -p "$folder"/{munge,state,spool,log}
    chmod 700 "$folder/state"
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
    write_config "$nodes"
    local munge="$folder/munge"
    munged --key-file="$munge/key" --socket="$munge/socket" --pid-file="$munge/pid" --seed-file="$munge/seed" \
        --log-file="$folder/log/munged.log"
    wait_for munged test -S "$munge/socket"
    slurmctld -f "$SLURM_CONF"
    for ((node = 1; node <= nodes; node++)); do
        mkdir -p "$folder/spool/n$node"
        slurmd -f "$SLURM_CONF" -N "n$node"
    done
    wait_for "the cluster" all_idle "$nodes"
    echo "Slurm $(slurmctld -V | cut -d' ' -f2) with $nodes nodes in $folder; inspect it with 'testbed.sh run $folder sinfo'"
}

# Processes of this cluster, from its PID files.
ours() {
    local file
    for file in "$folder"/*.pid "$folder/munge/pid"; do
        [ -s "$file" ] && cat "$file"
    done
    return 0
}

alive() {
    local pid
    for pid in "$@"; do
        kill -0 "$pid" 2>/dev/null && return
    done
    return 1
}

down() {
    local pids attempt
    [ -e "$folder/slurm.conf" ] || fail "$folder: no cluster"
    if timeout 10 scontrol ping >/dev/null 2>&1; then
        timeout 10 scancel --me 2>/dev/null || true
        # Interrupted jobs get the grace period of their node.
        for ((attempt = 0; attempt < 160; attempt++)); do
            [ -n "$(timeout 10 squeue -h 2>/dev/null)" ] || break
            sleep 0.25
        done
    fi
    mapfile -t pids < <(ours)
    if [ "${#pids[@]}" -gt 0 ]; then
        kill -TERM "${pids[@]}" 2>/dev/null || true
        for ((attempt = 0; attempt < 80; attempt++)); do
            alive "${pids[@]}" || break
            sleep 0.25
        done
        kill -KILL "${pids[@]}" 2>/dev/null || true
    fi
    if [ "${1:-}" = --keep-log ]; then
        find "$folder" -mindepth 1 -maxdepth 1 ! -name log -exec rm -rf {} +
    else
        rm -rf "$folder"
    fi
}

main() {
    local command="${1:-}"
    case "$command" in
    install)
        install
        return
        ;;
    installed)
        [ -z "$(missing)" ] || fail "$(missing | tr '\n' ' ')missing"
        return
        ;;
    up | run | down) [ $# -ge 2 ] || fail "$command needs a FOLDER" ;;
    *) fail "expected install, installed, up, run or down; see the head of $0" ;;
    esac
    folder="$(realpath -m "$2")"
    # Jobs inherit exported variables; this one is harmless.
    export SLURM_CONF="$folder/slurm.conf"
    shift 2
    case "$command" in
    up) up "${1:-4}" ;;
    down) down "${1:-}" ;;
    run)
        [ -e "$SLURM_CONF" ] || fail "$folder: no cluster; start one with 'testbed.sh up $folder'"
        [ $# -ge 1 ] || fail "run needs a COMMAND"
        exec "$@"
        ;;
    esac
}

# On one line, so that the file may change while it runs.
{ main "$@"; exit; }
