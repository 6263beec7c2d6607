"""Text as it may be printed, logged or stored: without the passwords and tokens that an error or a command line may hold."""

from __future__ import annotations

import os
import re

MASK = "***"
# Variables of the environment that hold a secret, by the end of their names; PWD alone is a folder.
HOLDS_SECRET = re.compile(r"(?:TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|API_?KEY|ACCESS_KEY|ACCOUNT_KEY|PRIVATE_KEY|SECRET_KEY|"
                          r"CONNECTION_STRING|_PWD|_PASS)$", re.I)  # fmt: skip
# A shorter one could stand in any text by chance.
SHORTEST = 4

# What stands in front of a host's name; the path of an SQLite file may hold an @ of its own.
ADDRESS = r"(?<!sqlite)(?<!file)(://)"
USER_INFO = re.compile(rf"{ADDRESS}(?:(?:[^\s'\"@]*@)+|[^/\s:@]*:[^/\n@]*@)")
# Behind a colon there is a port, or something else.
NO_PORT = re.compile(rf"{ADDRESS}(?:\[[\da-fA-F:.]+\]|[^\[/\s:@'\"*][^/\s:@'\"]*):(?!\d{{1,5}}(?![\w%]|:[^\s'\"]))[^\s/'\"]+")
# user:password@host, however the address in front of it is spelt, and a fragment, which no server gets.
BARE = re.compile(r"(?<![\w.%-])[^\s/:@'\"]+(?::|%3[aA])[^\s/:@'\"]+(?:@|%40)")
FRAGMENT = re.compile(rf"{ADDRESS}([^\s#'\"]*#)[^\s'\"]+")
# password=..., "password": "...", and in the options of an address what else a driver calls it.
NAME = (
    r"[\w.-]*(?:password|passwd|passphrase|secret|api_?key|access_?key|account_?key|secret_?key)|(?:[\w.-]*[.-])?(?:pwd|token)"
)
NAMED = re.compile(rf"(?i)(?<![\w.-])((?:{NAME})(?:\s*=\s*|['\"]\s*:\s*))('[^']*'|\"[^\"]*\"|[^\s&;,)}}'\"]+)")
OPTION = re.compile(r"(?i)([?&;]\s*(?:pass|pwd|key|auth|authorization|sig|signature|sas|user|uid|odbc_connect)=)[^&\s'\"]*")
HEADER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")


def masked(text: str) -> str:
    """The text with `***` in the place of what is, or looks like, a secret."""
    for name, value in os.environ.items():
        if HOLDS_SECRET.search(name) and len(value := value.strip()) >= SHORTEST:
            text = text.replace(value, MASK)
    text = FRAGMENT.sub(rf"\1\2{MASK}", BARE.sub(f"{MASK}@", text))
    text = NO_PORT.sub(rf"\1{MASK}", USER_INFO.sub(rf"\1{MASK}@", text))
    text = OPTION.sub(rf"\1{MASK}", text)
    return HEADER.sub(rf"\1 {MASK}", NAMED.sub(rf"\1{MASK}", text))
