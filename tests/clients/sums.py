"""Checksums as S3 spells them, computed without the server and without the SDK.

CRC32C and CRC64NVME are not in Python's library; a table of each is enough for tests.
"""

import base64
import hashlib
import zlib


def _table(polynomial):
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ polynomial if value & 1 else value >> 1
        table.append(value)
    return table


_CRC32C = _table(0x82F63B78)
_CRC64NVME = _table(0x9A6C9329AC4BC9B5)


def _crc(table, bits, data):
    value = mask = (1 << bits) - 1
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return (value ^ mask).to_bytes(bits // 8, "big")


DIGESTS = {
    "CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "CRC32C": lambda data: _crc(_CRC32C, 32, data),
    "CRC64NVME": lambda data: _crc(_CRC64NVME, 64, data),
    "SHA1": lambda data: hashlib.sha1(data).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
    "SHA512": lambda data: hashlib.sha512(data).digest(),
    "MD5": lambda data: hashlib.md5(data).digest(),
}

# Of nothing: https://github.com/Cyan4973/xxHash, `xxhsum` of an empty file.
OF_NOTHING = {
    "XXHASH64": "ef46db3751d8e999",
    "XXHASH3": "2d06800538d394c2",
    "XXHASH128": "99aa06d3014798d86001c324468d497f",
}

# Those that Amazon documents for every operation.
ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]
# CRCs of parts combine to that of the whole; the others do not.
FULL_OBJECT = ["CRC32", "CRC32C", "CRC64NVME"]
COMPOSITE = ["CRC32", "CRC32C", "SHA1", "SHA256"]


def encode(digest):
    return base64.b64encode(digest).decode()


def checksum(algorithm, data):
    """In base64."""
    return encode(DIGESTS[algorithm](data))


def composite(algorithm, parts):
    """Of a multipart object: the digest of its parts' digests, and their number."""
    digest = DIGESTS[algorithm]
    return f"{encode(digest(b''.join(digest(part) for part in parts)))}-{len(parts)}"


def etag(parts):
    """The ETag of a multipart object, with its quotes."""
    digest = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
    return f'"{digest}-{len(parts)}"'


def header(algorithm):
    return f"x-amz-checksum-{algorithm.lower()}"


assert DIGESTS["CRC32C"](b"123456789").hex() == "e3069283"
assert DIGESTS["CRC64NVME"](b"123456789").hex() == "ae8b14860a799888"
