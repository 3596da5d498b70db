#!/usr/bin/env bash
# A real SLURM on this one machine, for the tests: munge, MariaDB, slurmdbd, slurmctld and two slurmd, without systemd,
# control groups or GPUs. Memory is watched by polling, so that a job above its --mem is killed as on a cluster.
#
#   tests/slurm.sh install      apt packages, where they are missing (root)
#   tests/slurm.sh up DIR PORT  start everything in the empty folder DIR; PORT to PORT+3 have to be free
#   tests/slurm.sh down DIR     cancel its jobs and stop exactly the daemons that `up` started, by PID file
#
# Its commands need SLURM_CONF=DIR/slurm.conf. Partition and account are called lab, the nodes lab1 and lab2.
set -euo pipefail
fail() { echo "slurm.sh: $*" >&2; exit 1; }

install_packages() {
  local missing=() pair mine=0 policy=/usr/sbin/policy-rc.d
  for pair in munged:munge slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client slurmdbd:slurmdbd mariadbd:mariadb-server; do
    command -v "${pair%%:*}" > /dev/null || missing+=("${pair##*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  # The packages would start daemons of their own, if this file did not forbid it.
  if ! [ -e $policy ]; then printf '#!/bin/sh\nexit 101\n' > $policy; chmod 755 $policy; mine=1; fi
  export DEBIAN_FRONTEND=noninteractive
  local get=(apt-get install -qq -y --no-install-recommends "${missing[@]}") said
  said=$("${get[@]}" 2>&1) || said=$( (apt-get update -qq && "${get[@]}") 2>&1) || said="failed: $said"
  [ $mine = 0 ] || rm -f $policy
  [[ $said != failed:* ]] || fail "apt-get could not install ${missing[*]}: $(tail -n 1 <<< "$said")"
}

wait_for() { # WHAT SECONDS COMMAND...
  local what=$1 end=$((SECONDS + $2)); shift 2
  while [ $SECONDS -lt $end ]; do "$@" > /dev/null 2>&1 && return 0; sleep 0.1; done
  tail -n 5 "$dir"/*.log >&2
  fail "$what did not come up"
}

write_configuration() {
  local host; host=$(hostname -s); getent hosts "$host" > /dev/null || host=localhost
  cat > "$dir/slurm.conf" << EOF
ClusterName=r1lab
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
# Nodes may offer more than the machine has.
SlurmdParameters=config_overrides
AuthType=auth/munge
# A requeued job is held for this long.
AuthInfo=cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=512
ReturnToService=2
KillWait=10
JobRequeue=1
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0,sched_min_interval=100000
PriorityType=priority/basic
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 1))
NodeName=lab1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=8 RealMemory=16384 State=UNKNOWN
NodeName=lab2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 3)) CPUs=8 RealMemory=16384 State=UNKNOWN
PartitionName=lab Nodes=ALL Default=YES MaxTime=24:00:00 DefaultTime=60 State=UP
EOF
  cat > "$dir/slurmdbd.conf" << EOF
AuthType=auth/munge
DbdHost=localhost
DbdPort=$((port + 1))
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
PidFile=$dir/slurmdbd.pid
LogFile=$dir/slurmdbd.log
EOF
  chmod 600 "$dir/slurmdbd.conf"
}

up() {
  dir=$1 port=$2
  chmod 755 "$dir"; mkdir -p "$dir/state"
  write_configuration
  export SLURM_CONF=$dir/slurm.conf
  if ! timeout 2 munge -n -o /dev/null 2> /dev/null; then # one that answers already is used as it is
    install -d -m 0755 /run/munge; install -d -m 0700 "$dir/munge"
    (umask 077; head -c 1024 /dev/urandom > "$dir/munge/key")
    # sacctmgr looks for the default socket only
    munged --key-file="$dir/munge/key" --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" \
      --seed-file="$dir/munge/seed"
  fi
  install -d -o mysql -g mysql "$dir/db" "$dir/db-run"
  mariadb-install-db --no-defaults --user=mysql --datadir="$dir/db" --skip-test-db \
    --auth-root-authentication-method=socket > "$dir/mariadb-install.log" 2>&1 || fail "MariaDB could not make its tables"
  install -o mysql -g mysql -m 0644 /dev/null "$dir/mariadb.log"
  setsid mariadbd --no-defaults --user=mysql --datadir="$dir/db" --socket="$dir/db-run/sock" --skip-networking \
    --pid-file="$dir/db-run/pid" --log-error="$dir/mariadb.log" --innodb-buffer-pool-size=64M \
    --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 --performance-schema=OFF \
    < /dev/null > /dev/null 2>&1 &
  echo $! > "$dir/mariadbd.pid"
  wait_for munged 5 timeout 2 munge -n -o /dev/null
  wait_for MariaDB 30 timeout 2 mariadb-admin --no-defaults --socket="$dir/db-run/sock" ping
  MYSQL_UNIX_PORT=$dir/db-run/sock setsid slurmdbd < /dev/null > /dev/null 2>&1
  wait_for slurmdbd 30 timeout 2 sacctmgr -n show cluster
  timeout 10 sacctmgr -i add cluster r1lab > /dev/null 2>&1 || true
  setsid slurmctld < /dev/null > /dev/null 2>&1
  wait_for slurmctld 20 timeout 2 scontrol ping
  sacctmgr -i add account lab Description=lab Organization=lab > /dev/null
  sacctmgr -i add user root Account=lab DefaultAccount=lab > /dev/null
  for node in lab1 lab2; do mkdir -p "$dir/spool-$node"; setsid slurmd -N $node < /dev/null > /dev/null 2>&1; done
  idle() { [ "$(timeout 2 sinfo -h -N -o %t | grep -c '^idle$')" = 2 ]; }
  wait_for "the nodes" 30 idle
}

stop() { # NAME PIDFILE; a PID that by now belongs to another program is left alone
  [ -s "$2" ] || return 0
  local pid; pid=$(< "$2")
  [ "$(cat "/proc/$pid/comm" 2> /dev/null)" = "$1" ] || return 0
  kill -TERM "$pid"
  for ((i = 0; i < 20; i++)); do [ -d "/proc/$pid" ] || return 0; sleep 0.1; done
  kill -KILL "$pid" 2> /dev/null || true # what it keeps is thrown away
}

down() {
  dir=$1; export SLURM_CONF=$dir/slurm.conf
  # Jobs first: their processes are children of no daemon.
  if timeout 5 scontrol ping > /dev/null 2>&1; then
    timeout 10 scancel -p lab --state=PENDING 2> /dev/null || true
    timeout 10 scancel -p lab --signal=KILL --full 2> /dev/null || true
    timeout 10 scancel -p lab 2> /dev/null || true
    for ((i = 0; i < 150; i++)); do [ -n "$(timeout 5 squeue -h 2> /dev/null)" ] || break; sleep 0.1; done
  fi
  for node in lab1 lab2; do stop slurmd "$dir/slurmd-$node.pid"; done
  for name in slurmctld slurmdbd mariadbd munged; do stop $name "$dir/$name.pid"; done
}

case ${1:-} in
  install) install_packages ;;
  up) up "$2" "$3" ;;
  down) down "$2" ;;
  *) fail "say install, up DIR PORT or down DIR" ;;
esac
