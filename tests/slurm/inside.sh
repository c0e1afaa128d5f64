#!/bin/bash
# A Slurm of two nodes and a spare one inside mount, process and network namespaces of its own; nothing of it reaches
# the machine outside.
#   unshare --mount --pid --fork --mount-proc --net bash inside.sh WORK TREE COMMAND...
# As root. WORK: a folder outside /usr /etc /var /run. TREE: Debian's Slurm packages unpacked by
# `dpkg -x`, or / where they are installed.
set -e
work=$1 tree=$2
shift 2
ip link set lo up
# Slurm asks for addresses that are not loopback ones; these exist in this namespace alone.
for number in 1 2 3; do ip address add "10.77.0.$number/32" dev lo; done
mount --make-rprivate /
mkdir -p "$work/layer"
mount -t tmpfs -o size=64m tmpfs "$work/layer"
for name in usr etc var; do
  mkdir -p "$work/layer/up-$name" "$work/layer/wk-$name"
  lower=/$name
  [ "$tree" = / ] || [ ! -d "$tree/$name" ] || lower=$tree/$name:/$name
  mount -t overlay overlay \
    -o "lowerdir=$lower,upperdir=$work/layer/up-$name,workdir=$work/layer/wk-$name" "/$name"
done
mount -t tmpfs -o size=16m tmpfs /run
hostname node-host
printf '127.0.0.1 localhost\n10.77.0.1 node-host n1\n10.77.0.2 n2\n10.77.0.3 n3\n' >/etc/hosts

mkdir -p /run/munge /var/log/munge /var/lib/munge /etc/munge /etc/slurm /run/slurm /var/spool/slurmctld
head -c 1024 /dev/urandom >/etc/munge/munge.key
chown root: /run/munge /var/log/munge /var/lib/munge /etc/munge /etc/munge/munge.key
chmod 700 /var/log/munge /var/lib/munge /etc/munge
chmod 400 /etc/munge/munge.key
munged --force 2>/dev/null

for name in slurmctld slurmd slurmstepd; do
  [ -x "/usr/sbin/$name" ] || ln -s "/usr/sbin/$name-wlm" "/usr/sbin/$name"
done
cat >/etc/slurm/slurm.conf <<CONF
ClusterName=test
SlurmctldHost=node-host(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd-%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=300
KillWait=5
InactiveLimit=0
MinJobAge=3600
NodeName=n1 NodeHostname=node-host NodeAddr=10.77.0.1 Port=17001 CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname=node-host NodeAddr=10.77.0.2 Port=17002 CPUs=2 RealMemory=4000
NodeName=n3 NodeHostname=node-host NodeAddr=10.77.0.3 Port=17003 CPUs=2 RealMemory=4000 Weight=9
PartitionName=cpu Nodes=n1,n2,n3 Default=YES MaxTime=INFINITE State=UP
CONF
slurmctld -L "$work/slurmctld.log"
for name in n1 n2 n3; do slurmd -N "$name" -L "$work/$name.log"; done
for _ in $(seq 120); do
  [ "$(timeout 5 sinfo -h -t idle -o %D 2>/dev/null)" = 3 ] && break
  sleep 0.5
done
timeout 5 sinfo
exec "$@"
