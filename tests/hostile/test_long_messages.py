"""Secrets are masked in linear time, since a stranger's file can make an error message arbitrarily long."""

import time

import pytest

from mat_ds.errors import masked

WORDS = (
    "a", "a:", "a@", "://a", "x://y:", "://:", "x://#", "$%3a", "%3a", "$a:", "password=", "password='", '"token": ',
    "a-password", "token.", "api_key-", "?pass=", "basic ", "'a", "http$%3aa",
)  # fmt: skip
CHARACTERS = 100_000
SECONDS = 20


@pytest.mark.parametrize("word", WORDS)
def test_a_very_long_word_is_masked_fast(word: str) -> None:
    began = time.process_time()
    masked((word * CHARACTERS)[:CHARACTERS])
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:s3cret@host/path", "http://***@host/path"),
        ("a://b://user:s3cret@host", "a://b://***@host"),
        ("http://host/#s3cret", "http://host/#***"),
        ("to http://user:s3 cr'et@host", "to http://***@host"),
        ("user%3As3cret%40host", "***@host"),
        ("%3a%3as3cret%40host", "***@host"),
        ("a%40b:s3cret@host", "***@host"),
        ("a%3a:s3cret@host", "***@host"),
    ],
)
def test_a_user_and_a_fragment_of_an_address_are_masked(text: str, shown: str) -> None:
    found = masked(text)
    assert "s3" not in found and "cret" not in found
    assert found.endswith(shown.rpartition("***")[2])
