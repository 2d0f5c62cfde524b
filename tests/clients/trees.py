"""Directories of files to send, and whether what came back is the same."""

import os
import shutil

from harness import KIB, MIB, body

# Long ago, with nanoseconds: older than anything in a bucket, and not what a clock says now.
LONG_AGO_NS = 1_577_934_245_123_456_789

NAMES = [
    "plain.txt", "no-extension", ".hidden", "deep/er/and/deeper/file", "a b.txt", " leading", "trailing ",
    "plus+sign", "percent%41", "100%", "hash#tag", "question?mark", "star*", "semi;colon,comma", "equals=and&",
    "quote'\"", "<angle>", "[brackets]{}", "tilde~", "at@home", "dollar$", "caret^`|", "back\\slash",
    "ünïcødé/é", "日本語/キー", "🦀", "e\u0301 not composed", "x" * 200,
]  # fmt: skip
SIZES = [0, 1, 4096, 100 * KIB, 3 * MIB]


def plant(directory, names=NAMES, sizes=SIZES):
    """Files of some sizes under many names, all of an age."""
    for number, name in enumerate(names):
        write(directory / name, body(sizes[number % len(sizes)], seed=number))
    return directory


def write(path, data, time_ns=LONG_AGO_NS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(time_ns, time_ns))
    return path


def contents(directory):
    """Every file's bytes, by its name."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def times_ns(directory):
    return {str(path.relative_to(directory)): path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


def same(one, other):
    """Compares names first: a difference in megabytes of bytes is nothing to read."""
    left, right = contents(one), contents(other)
    assert sorted(left) == sorted(right)
    assert [name for name in left if left[name] != right[name]] == []


def gone(*directories):
    """These tests send hundreds of megabytes: nothing is kept for later."""
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
