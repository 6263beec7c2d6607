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

# All of these take time that grows no faster than the text: errors quote what strangers wrote. So an address is taken as a
# whole, and a start is tried once a word.
# What stands in front of a host's name; the path of an SQLite file may hold an @ of its own.
ADDRESS = r"(?<!sqlite)(?<!file)(://)"
REST = re.compile(rf"{ADDRESS}([^\s'\"]*)")
# A password may hold blanks and quotes.
USER_INFO = re.compile(rf"{ADDRESS}[^/\s:@]*:[^/\n@]*@")
# Behind a colon there is a port, or something else.
NO_PORT = re.compile(rf"{ADDRESS}(?:\[[\da-fA-F:.]+\]|[^\[/\s:@'\"*][^/\s:@'\"]*):(?!\d{{1,5}}(?![\w%]|:[^\s'\"]))[^\s/'\"]+")
# user:password@host, however the address in front of it is spelt.
PART = r"[^\s/:@'\"]"
BARE = re.compile(rf"(?<!{PART})(?:{PART}+:|{PART}(?:(?!%3[aA]){PART})*%3[aA]){PART}+(?:@|%40)")
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
    text = REST.sub(_without_secrets, BARE.sub(f"{MASK}@", text))
    text = NO_PORT.sub(rf"\1{MASK}", USER_INFO.sub(rf"\1{MASK}@", text))
    text = OPTION.sub(rf"\1{MASK}", text)
    return HEADER.sub(rf"\1 {MASK}", NAMED.sub(rf"\1{MASK}", text))


def _without_secrets(match: re.Match[str]) -> str:
    """What stands behind `://` without its user, and without a fragment, which no server gets."""
    rest, mark, fragment = match[2].partition("#")
    shown = rest + mark + (MASK if fragment else "")
    _, user, host = shown.rpartition("@")
    return f"{match[1]}{MASK}@{host}" if user else f"{match[1]}{shown}"
