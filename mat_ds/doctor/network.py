"""Checks how ranks on several nodes would connect: host name, interfaces, InfiniBand (it suggests settings and makes none); and
whether the hub of models and datasets can be reached."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mat_ds.doctor.launcher import INFINIBAND
from mat_ds.doctor.rows import Row, brief, failed, passed, warned
from mat_ds.tasks.hub import Hub

if TYPE_CHECKING:
    from mat_ds.ranks.world import World

# Names of interfaces inside this machine, such as those of containers, begin with these.
INNER = ("lo", "docker", "br-", "virbr", "veth", "cni", "flannel", "podman", "tap", "tun")
CHOICES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def interfaces() -> dict[str, str]:
    """IPv4 addresses of the network interfaces that are up and lead out of this machine, by name."""
    import psutil

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return {
        name: address.address
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET and name in up and not name.startswith(INNER)
    }


def own_address() -> str:
    """The address of this host's own name, where gloo and NCCL listen by default."""
    return socket.gethostbyname(socket.gethostname())


def check_network(world: World) -> Iterator[Row]:
    """Checks name, interfaces and InfiniBand of this host. Some findings are a warning only if there are several nodes."""
    several_nodes, found = world.size > world.local_size, interfaces()
    yield from _host_name(several_nodes, found)
    shown = ", ".join(f"{name} {address}" for name, address in found.items()) or "none that leads out of this machine"
    choice = suggestion(found)
    tip = f"where nodes do not meet, choose one: {choice}" if len(found) > 1 and not _chosen() else ""
    yield passed("interfaces", shown + "".join(f"; {name}={os.environ[name]}" for name in _chosen()), tip)
    for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(","):
        known = {name for _, name in socket.if_nameindex()}
        if name and name not in known:
            yield failed("GLOO_SOCKET_IFNAME", f"{name}: there is no such interface here", f"one of {', '.join(sorted(known))}")
    yield from _infiniband()


def _chosen() -> list[str]:
    return [name for name in CHOICES if os.environ.get(name)]


def suggestion(found: dict[str, str]) -> str:
    """The shell command that makes gloo and NCCL use the first of the interfaces."""
    return "export " + " ".join(f"{name}={next(iter(found), '<interface>')}" for name in CHOICES)


def other_choice(found: dict[str, str]) -> str:
    """`suggestion` of an interface that has not been chosen; empty if there is no other."""
    used = {interface for name in _chosen() for interface in os.environ[name].split(",")}
    others = {name: address for name, address in found.items() if name not in used}
    return suggestion(others) if others or not used else ""


def _host_name(several_nodes: bool, found: dict[str, str]) -> Iterator[Row]:
    host = socket.gethostname()
    try:
        address = own_address()
    except OSError as error:
        if os.environ.get(CHOICES[0]):  # gloo, which every run uses, would look for it
            yield passed("host name", f"{host} has no address, and needs none")
        else:
            reason = f"{host} has no address ({brief(error)})"
            yield warned("host name", reason, f"add it to /etc/hosts, or {suggestion(found)}")
        return
    if not address.startswith("127."):
        yield passed("host name", f"{host} is {address}")
    elif not several_nodes or _chosen():
        yield passed("host name", f"{host} is {address}", "" if _chosen() else f"for several nodes: {suggestion(found)}")
    else:
        yield warned("host name", f"{host} is {address}, where no other node can reach it", suggestion(found))


def _infiniband() -> Iterator[Row]:
    states = {path.parts[-4]: path.read_text().split()[-1] for path in sorted(INFINIBAND.glob("*/ports/*/state"))}
    if not states:
        return
    shown = ", ".join(f"{device} {state.lower()}" for device, state in states.items())
    if "ACTIVE" in states.values() or os.environ.get("NCCL_IB_DISABLE") == "1":
        yield passed("infiniband", shown, "where NCCL fails on it: export NCCL_IB_DISABLE=1")
    else:
        yield warned("infiniband", f"{shown}: no port is active", "export NCCL_IB_DISABLE=1")


def check_hub(hub: Hub) -> Iterator[Row]:
    """Yields a row about what the state of the hub means for a run."""
    if hub.offline:
        yield passed("hub", "not asked: HF_HUB_OFFLINE is set, and data and models come from folders or the cache")
    elif hub.reached:
        yield passed("hub", f"{hub.endpoint} answers")
    else:
        yield warned(
            "hub",
            f"{hub.endpoint} cannot be reached ({hub.why})",
            "run `mat-ds prepare` on a login node, "
            "pass the folders as model.name= and data.path=, and export HF_HUB_OFFLINE=1 here",
        )
