# For the tests in this folder, which source it: a real Slurm of several virtual nodes on this machine.
#   reason_to_skip           prints why there can be none here; nothing if there can
#   start_cluster NODES DIR  and from then on sbatch and the like talk to it
#   stop_cluster
#
# Every node is a slurmd of its own, with its own port, spool and folder for PMIx. Needs root (munged and slurmd run as
# the user who starts jobs) and Debian's packages:
slurm_packages=(munge slurmctld slurmd slurm-client slurm-wlm-basic-plugins procps)

install=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/jobs/install.sh  # also after another cd

reason_to_skip() {
  [ "$(id -u)" -eq 0 ] || { echo "a cluster of virtual nodes needs root"; return; }
  getent hosts "$(hostname -s)" >/dev/null || { echo "this machine's name, $(hostname -s), has no address"; return; }
  "$install" "${slurm_packages[@]}" >&2 ||
    echo "packages are missing: ${slurm_packages[*]}"
}

cluster_conf() { # NODES
  cat <<CONF
ClusterName=tangram
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its credential has expired.
AuthInfo=socket=$cluster/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmctldLogFile=$cluster/slurmctld.log
StateSaveLocation=$cluster/state
# %n is a node's name: nothing is shared between two of them, or PMIx fails with "File exists".
SlurmdPidFile=$cluster/%n/slurmd.pid
SlurmdLogFile=$cluster/%n/slurmd.log
SlurmdSpoolDir=$cluster/%n/spool
TmpFS=$cluster/%n/tmp
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1,sched_interval=1
JobRequeue=1
KillWait=10
MinJobAge=3600
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=n[1-$1] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + $1))] CPUs=2 RealMemory=1024
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

start_cluster() { # NODES DIR
  cluster=$2
  local host port=$((20000 + $$ % 2000 * 16)) node
  host=$(hostname -s)
  mkdir -p "$cluster/state"
  chmod 755 "$cluster"
  cluster_conf "$1" >"$cluster/slurm.conf"
  printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' >"$cluster/cgroup.conf"
  export SLURM_CONF=$cluster/slurm.conf
  (umask 077; head -c 1024 /dev/urandom >"$cluster/munge.key")
  munged --force --socket="$cluster/munge.socket" --key-file="$cluster/munge.key" --seed-file="$cluster/munge.seed" \
    --pid-file="$cluster/munged.pid" --log-file="$cluster/munged.log"
  slurmctld -i
  for node in $(seq "$1"); do
    mkdir -p "$cluster/n$node/spool" "$cluster/n$node/tmp"
    slurmd -N "n$node"
  done
  for _ in $(seq 100); do
    [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = "$1" ] && return
    sleep 0.2
  done
  echo "the cluster has not come up; $cluster/slurmctld.log ends with:" >&2
  tail -n 20 "$cluster/slurmctld.log" >&2
  return 1
}

running() { # PID, and not a process that has ended and that nobody has waited for
  local state
  state=$(sed -n 's/^State:\t\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null)
  [ -n "$state" ] && [ "$state" != Z ]
}

stop_cluster() { # the nodes first, so that no job is lost by accident
  local file pid
  for file in "$cluster"/n*/slurmd.pid "$cluster/slurmctld.pid" "$cluster/munged.pid"; do
    pid=$(cat "$file" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null
    for _ in $(seq 100); do running "$pid" || break; sleep 0.05; done
  done
}
