"""Simulated machines: each has its own name, network, processes, /dev/shm and sshd; they share the disk.

Commands are given on one of them, head. The network's bridge is in head, so that nothing is added to the real machine's
network and nothing leads out. A machine ends, with all its processes, when its first process is killed, and that is killed
when the test process dies.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil

SUBNET = "10.90.77"
TOOLS = ("ip", "nsenter", "unshare", "setpriv", "pkill", "ssh-keygen", "sshd", "pdsh", "munged", "slurmctld", "slurmd")
# SIGCHLD is ignored so that orphans inherited by a machine's first process leave no zombies.
FIRST_PROCESS = """
set -e
hostname "$1"
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs run /run
mkdir /run/sshd
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/ssh_config" /etc/ssh/ssh_config
ip link set lo up
touch "$2/$1.up"
exec env --ignore-signal=CHLD sleep infinity
"""
SSHD = """
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
"""
# ssh takes ~ from the password file, so HOME cannot point it to other files.
SSH = """
Host *
    IdentityFile {folder}/user_key
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
"""


def why_not():
    """Why this machine cannot simulate others; None if it can."""
    if os.geteuid() != 0:
        return "needs root"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if missing := [tool for tool in TOOLS if not shutil.which(tool, path=path)]:
        return f"missing {', '.join(missing)} (Debian: slurm-wlm munge openssh-server pdsh iproute2 procps)"
    bridge = "mount -t tmpfs tmpfs /run && ip link add br0 type bridge && hostname probe"
    namespaces = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--mount-proc"]
    tried = subprocess.run([*namespaces, "sh", "-c", bridge], capture_output=True, text=True)
    return f"namespaces refused: {tried.stderr.strip()}" if tried.returncode else None


def wait_until(true, seconds, what):
    """Polls until a function returns a true value; returns the value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.1)
    raise TimeoutError(f"{what}: not within {seconds} s")


class Started:
    """A command that runs on a host; signals go to the command, not to nsenter."""

    def __init__(self, carrier):
        self.carrier = carrier

    @property
    def process(self):
        """The process of the command, a child of nsenter, which forks to enter a host's process table."""
        return wait_until(lambda: psutil.Process(self.carrier.pid).children(), 60, "nsenter")[0]

    def wait(self, timeout):
        return self.carrier.wait(timeout)


class Host:
    """A simulated machine.

    Args:
        name: its host name.
        number: the last number of its address.
        folder: where the network keeps its files.
        env: variables of its commands, in addition to those of the tests.
    """

    def __init__(self, name, number, folder, env):
        self.name, self.address, self.folder, self.env = name, f"{SUBNET}.{number}", folder, env
        self.port, self.mac = f"port{number}", f"02:4e:00:00:00:{number:02x}"
        self._unshare = None

    def boot(self):
        (self.folder / f"{self.name}.up").unlink(missing_ok=True)
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        first = ["sh", "-c", FIRST_PROCESS, "first", self.name, str(self.folder)]
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, *first]
        with (self.folder / f"{self.name}.log").open("a") as log:
            self._unshare = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        wait_until((self.folder / f"{self.name}.up").exists, 90, f"{self.name} boots")

    @property
    def up(self):
        return self._unshare is not None and self._unshare.poll() is None

    @property
    def pid(self):
        """Number of the first process."""
        return psutil.Process(self._unshare.pid).children()[0].pid

    def command(self, *command):
        """The local command line that runs `command` on the host, in the current folder."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-W", os.getcwd()]
        return [*enter, "--", *map(str, command)]

    def run(self, *command, check=True, timeout=600, **env):
        """Runs a command and returns the finished process, with stdout and stderr in one text."""
        done = subprocess.run(
            self.command(*command),
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, f"{self.name}: {' '.join(map(str, command))}\n{done.stdout}"
        return done

    def ip(self, *command):
        """Configures the host's network."""
        subprocess.run(["nsenter", "-t", str(self.pid), "-n", "ip", *map(str, command)], env=self.env, check=True)

    def start(self, *command, log, **env):
        """Starts a command in the background; its output is appended to a file."""
        with Path(log).open("a") as out:
            return Started(
                subprocess.Popen(
                    self.command(*command),
                    env={**self.env, **env},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            )

    def kill(self):
        """Simulates a power loss: all its processes end at once."""
        if self.up:
            os.kill(self.pid, 9)
            self._unshare.wait(10)


class Network:
    """The head and some nodes, connected.

    Args:
        folder: an empty folder for keys, logs and other files.
        nodes: names of the nodes.
        env: as for a host.
    """

    def __init__(self, folder, nodes, env):
        self.folder = folder
        env = {**env, "PATH": f"{env['PATH']}:/usr/sbin:/sbin"}
        self.head = Host("head", 1, folder, env)
        self.nodes = {name: Host(name, 10 + i, folder, env) for i, name in enumerate(nodes)}
        self.hosts = (self.head, *self.nodes.values())

    def start(self):
        self.folder.chmod(0o755)  # everybody must be able to reach munged's socket
        for key in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / key], check=True)
        public = (self.folder / "host_key.pub").read_text()
        names = [f"{host.address} {host.name}" for host in self.hosts]
        files = {
            "hosts": "\n".join(["127.0.0.1 localhost", *names, ""]),
            "known_hosts": "".join(f"{host.name},{host.address} {public}" for host in self.hosts),
            "sshd_config": SSHD.format(folder=self.folder),
            "ssh_config": SSH.format(folder=self.folder),
        }
        for name, text in files.items():
            (self.folder / name).write_text(text)
        self.head.boot()
        self.head.ip("link", "add", "br0", "address", self.head.mac, "type", "bridge")
        self.head.ip("address", "add", f"{self.head.address}/24", "dev", "br0")
        self.head.ip("link", "set", "br0", "up")
        for node in self.nodes.values():
            self.join(node)

    def join(self, node):
        """Starts a node and connects it."""
        node.boot()
        port = (node.port, "type", "veth", "peer", "name", "eth0", "address", node.mac, "netns", node.pid)
        self.head.ip("link", "add", *port)
        self.head.ip("link", "set", node.port, "master", "br0", "up")
        node.ip("address", "add", f"{node.address}/24", "dev", "eth0")
        node.ip("link", "set", "eth0", "up")
        node.run("/usr/sbin/sshd", "-f", self.folder / "sshd_config", "-E", self.folder / f"{node.name}.sshd.log")

    def lose(self, node):
        """A node loses power. It is disconnected first, since a dead machine closes no connection."""
        self.head.ip("link", "delete", node.port)
        node.kill()

    def stop(self):
        for host in reversed(self.hosts):
            host.kill()
