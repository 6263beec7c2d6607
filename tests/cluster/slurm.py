"""A SLURM cluster of real daemons, one slurmd on each node of a network, slurmctld and munged on its head."""

import os
import re
import signal
import stat

from tests.cluster.hosts import wait_until

GPUS = 2
CONFIGURATION = """
ClusterName=tests
SlurmctldHost=head
SlurmUser=root
AuthType=auth/munge
# A requeued job starts when its old credential has expired: 120 s by default.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
# Nodes may claim more CPUs than there are.
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2,batch_sched_delay=0
MinJobAge=3600
JobRequeue=1
# Faults show in half a minute; a busy machine that is slow to answer is no fault.
SlurmdTimeout=20
MessageTimeout=60
ReturnToService=2
GresTypes=gpu
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL")


class Slurm:
    """The cluster; its commands run on the head.

    Its GPUs are copies of /dev/null: SLURM allocates them, so scripts for GPU nodes run unchanged.

    Args:
        network: hosts that are up.
    """

    def __init__(self, network):
        self.network, self.head, self.folder = network, network.head, network.folder
        self.head.env = {**self.head.env, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self._slurmds = {}

    def start(self):
        for name in ("munge", "state", "dev"):
            (self.folder / name).mkdir(mode=0o755)
        (self.folder / "munge" / "key").write_bytes(os.urandom(128))
        (self.folder / "munge" / "key").chmod(0o600)
        for gpu in range(GPUS):
            os.mknod(self.folder / "dev" / f"nvidia{gpu}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/dev/nvidia[0-{GPUS - 1}]\n")
        nodes = [f"NodeName={name} CPUs=2 RealMemory=1000000 Gres=gpu:{GPUS} State=UNKNOWN" for name in self.network.nodes]
        (self.folder / "slurm.conf").write_text("\n".join([CONFIGURATION.format(folder=self.folder), *nodes, ""]))
        files = {"socket": "socket", "key-file": "key", "seed-file": "seed", "pid-file": "pid", "log-file": "log"}
        munge = [f"--{option}={self.folder}/munge/{name}" for option, name in files.items()]
        self.head.start("munged", "--foreground", *munge, log=self.folder / "munged.out")
        wait_until((self.folder / "munge" / "socket").exists, 90, "munged starts")
        self.head.start("slurmctld", "-D", log=self.folder / "slurmctld.out")
        for node in self.network.nodes.values():
            self.start_slurmd(node)
        self.wait_for_nodes()

    def start_slurmd(self, node):
        conf = self.folder / "slurm.conf"
        self._slurmds[node.name] = node.start("slurmd", "-D", "-f", conf, log=self.folder / f"{node.name}.slurmd.out")

    def kill_slurmd(self, node):
        """Kills a node's daemon; its tasks continue to run."""
        self._slurmds[node.name].process.send_signal(signal.SIGKILL)

    def wait_for_nodes(self):
        """Waits until every node answers and is idle."""

        def idle():
            done = self.head.run("sinfo", "-h", "-N", "-o", "%T", check=False)
            return done.returncode == 0 and done.stdout.split() == ["idle"] * len(self.network.nodes)

        wait_until(idle, 180, "all nodes are idle")

    def submit(self, *arguments, **env):
        """Submits a batch script and returns the job's number."""
        return int(self.head.run("sbatch", "--parsable", *arguments, **env).stdout.split(";")[0])

    def describe(self, job):
        """SLURM's fields of a job or of a task of an array, by name; empty for a task that it has not split off yet."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.head.run("scontrol", "-o", "show", "job", job, check=False).stdout))

    def steps_of(self, job):
        """The running job steps, one per line."""
        return self.head.run("squeue", "-h", "--steps", "-j", job, "-o", "%i").stdout.split()

    def wait_for(self, job, seconds=600):
        """Waits until a job has ended and is not requeued; returns its state and exit code, such as ("COMPLETED", "0:0")."""
        found = wait_until(lambda: (d := self.describe(job)).get("JobState") in ENDED and d, seconds, f"job {job} ends")
        return found["JobState"], found["ExitCode"]

    def limit(self, job, minutes):
        """Changes the time limit of a job."""
        self.head.run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    def cancel(self, *arguments):
        self.head.run("scancel", *arguments)

    def logs(self):
        return "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*.out")))
