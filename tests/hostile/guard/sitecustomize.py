"""Comes first on a process's path: records in a file the addresses that Python tries to reach, and reaches none."""

import os
import socket


def _refuse(address):
    with open(os.environ["REACHED"], "a") as file:
        file.write(f"{address}\n")
    raise ConnectionRefusedError(f"this test has no network: {address}")


def _connect(self, address):
    if self.family == socket.AF_UNIX:
        return _really(self, address)
    return _refuse(address)


_really = socket.socket.connect
socket.socket.connect = _connect
socket.socket.connect_ex = _connect
socket.getaddrinfo = lambda host, *_, **__: _refuse(host)
