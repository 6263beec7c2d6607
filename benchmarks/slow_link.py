"""Two network namespaces of this machine whose link has a rate and a delay. Needs root and iproute2.

    sudo python -m benchmarks.slow_link [--mbits 100] [--delay 20]

says what the link really does: milliseconds of a round trip over it, and Mbit/s of a TCP stream each way. Where the kernel can
delay packets it is a virtual cable held by `tc netem`; elsewhere a process passes the packets of two TUN devices on.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from statistics import median

SIDES = ("mat-ds-a", "mat-ds-b")
ADDRESSES = ("10.199.0.1", "10.199.0.2")
CABLE = "cable"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
# Bytes of a packet, those of jumbo frames: at 100 Mbit/s there are then 1400 a second, which cost little to pass on.
MTU = 9000
PORT, PINGS, SECONDS = 4000, 20, 4


def shell(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def two_nodes(mbits: float, delay: float) -> Iterator[str]:
    """Two network namespaces, `SIDES`, that reach each other at `ADDRESSES` through a device called `CABLE`.

    Args:
        mbits: 10^6 bits a second, in each direction.
        delay: milliseconds of a round trip, half of them in each direction, as `netem delay` on one side would make it.

    Yields:
        What makes the link.
    """
    with ExitStack() as ends:
        for side in SIDES:
            shell("ip", "netns", "add", side)
            ends.callback(shell, "ip", "netns", "delete", side)
        held = _held_cable(mbits, delay)
        if not held:
            for wire in _wires(mbits * 1e6 / 8, delay / 2e3):
                ends.callback(wire.close)
        for side, address in zip(SIDES, ADDRESSES, strict=True):
            ends.callback(subprocess.run, ["ip", "-n", side, "link", "delete", CABLE], capture_output=True)
            shell("ip", "-n", side, "address", "add", f"{address}/24", "dev", CABLE)
            for device in (CABLE, "lo"):
                shell("ip", "-n", side, "link", "set", device, "up")
        yield "tc netem" if held else f"a process between two TUN devices, packets of {MTU} bytes"


def crossed() -> int:
    """Bytes that both sides have sent so far, with the headers of their packets."""
    found = (json.loads(shell("ip", "-n", side, "-j", "-s", "link", "show", "dev", CABLE)) for side in SIDES)
    return sum(device["stats64"]["tx"]["bytes"] for (device,) in found)


def _held_cable(mbits: float, delay: float) -> bool:
    """Joins the sides by a virtual cable that netem holds, if this kernel has netem."""
    shell("ip", "link", "add", CABLE, "netns", SIDES[0], "type", "veth", "peer", "name", CABLE, "netns", SIDES[1])
    for side in SIDES:
        add = ("tc", "-n", side, "qdisc", "add", "dev", CABLE, "root", "netem")
        how = ("rate", f"{mbits}mbit", "delay", f"{delay / 2}ms", "limit", "100000")
        if subprocess.run([*add, *how], capture_output=True).returncode:
            shell("ip", "-n", SIDES[0], "link", "delete", CABLE)
            return False
    return True


def _wires(rate: float, delay: float) -> list[Wire]:
    """Gives each side a TUN device, and passes on what each sends; bytes a second and seconds, of one direction."""
    ends = []
    for number, side in enumerate(SIDES):
        end, name = os.open("/dev/net/tun", os.O_RDWR), f"mat-ds-tun{number}"
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
        shell("ip", "link", "set", name, "netns", side)  # the open file goes on being its other end
        shell("ip", "-n", side, "link", "set", name, "name", CABLE, "mtu", str(MTU), "txqueuelen", "10000")
        ends.append(end)
    return [Wire(*ends, rate, delay), Wire(*reversed(ends), rate, delay)]


class Wire:
    """Passes packets from one TUN device to another: one after the other at a rate, each some time later. Drops none.

    Args:
        source, target: file descriptors; the source is closed with it.
        rate: bytes per second.
        delay: seconds from the end of a packet's sending to its arrival.
    """

    def __init__(self, source: int, target: int, rate: float, delay: float):
        self._source, self._target, self._rate, self._delay = source, target, rate, delay
        self._under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._take, self._deliver)]
        for thread in self._threads:
            thread.start()

    def _take(self) -> None:
        free = 0.0
        while packet := self._read():
            free = max(free, time.monotonic()) + len(packet) / self._rate
            self._under_way.put((free + self._delay, packet))
        self._under_way.put((0.0, b""))

    def _read(self) -> bytes:
        try:
            return os.read(self._source, 1 << 16)
        except OSError:  # its namespace, and so the device, is gone
            return b""

    def _deliver(self) -> None:
        while True:
            arrives, packet = self._under_way.get()
            if not packet:
                return
            time.sleep(max(0.0, arrives - time.monotonic()))
            with suppress(OSError):  # it is down
                os.write(self._target, packet)

    def close(self) -> None:
        """Waits until nothing is under way; the devices must be gone."""
        for thread in self._threads:
            thread.join(10)
        os.close(self._source)


def inside(side: str, *command: str) -> subprocess.Popen[str]:
    """Starts this program in a namespace."""
    program = [sys.executable, "-m", "benchmarks.slow_link", *command]
    return subprocess.Popen(["ip", "netns", "exec", side, *program], stdout=subprocess.PIPE, text=True)


def answer(size: int) -> None:
    """Sends bytes back, then takes so many and sends so many."""
    with socket.create_server(("", PORT)) as server:
        print(flush=True)
        with server.accept()[0] as link:
            for _ in range(PINGS):
                link.sendall(link.recv(1))
            _receive(link, size)
            link.sendall(bytes(1))
            link.sendall(bytes(size))


def ask(size: int) -> None:
    """Prints how long the other side took for it: seconds of a byte there and back, of a stream there, and of one back."""
    with socket.create_connection((ADDRESSES[1], PORT)) as link:
        rounds = [_timed(lambda: (link.sendall(bytes(1)), _receive(link, 1))) for _ in range(PINGS)]
        there = _timed(lambda: (link.sendall(bytes(size)), _receive(link, 1)))
        print(json.dumps([median(rounds), there, _timed(lambda: _receive(link, size))]))


def _receive(link: socket.socket, size: int) -> None:
    while size > 0:
        size -= len(link.recv(min(size, 1 << 20)))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbits", type=float, default=100.0)
    parser.add_argument("--delay", type=float, default=20.0, help="milliseconds of a round trip")
    parser.add_argument("--side", choices=["ask", "answer"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    size = int(asked.mbits * 1e6 / 8 * SECONDS)
    if asked.side:
        return (ask if asked.side == "ask" else answer)(size)
    given = ("--mbits", str(asked.mbits), "--side")
    with two_nodes(asked.mbits, asked.delay) as means:
        server = inside(SIDES[1], *given, "answer")
        assert server.stdout
        server.stdout.readline()  # it listens
        printed, _ = inside(SIDES[0], *given, "ask").communicate()
        server.wait()
    back, *streams = json.loads(printed)
    each = ", ".join(f"{size * 8 / 1e6 / seconds:.1f}" for seconds in streams)
    print(f"{means}: a round trip takes {1e3 * back:.1f} ms, TCP has {each} Mbit/s there and back")


if __name__ == "__main__":
    main()
