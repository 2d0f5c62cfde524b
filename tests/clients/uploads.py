"""Uploads in parts, as short as tests want to say them; and what they leave on a disk."""

import re
import subprocess
import time

import harness
import raw
from harness import MIB

# The least that S3 takes for every part but the last.
PART = 5 * MIB


def begin(s3, bucket, key="k", **more):
    return s3.create_multipart_upload(Bucket=bucket, Key=key, **more)["UploadId"]


def part(s3, bucket, upload, number, data, key="k", **more):
    """The part as a completion names it."""
    answer = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=data, **more)
    return {"PartNumber": number, "ETag": answer["ETag"]}


def complete(s3, bucket, upload, parts, key="k", **more):
    return s3.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **more
    )


def whole(s3, bucket, bodies, key="k", first=1, **more):
    """An object of parts, from its beginning to its end."""
    upload = begin(s3, bucket, key, **more)
    # The parts must have the algorithm that the upload was begun with.
    sum_of = {name: value for name, value in more.items() if name == "ChecksumAlgorithm"}
    parts = [part(s3, bucket, upload, first + at, data, key, **sum_of) for at, data in enumerate(bodies)]
    return complete(s3, bucket, upload, parts, key)


def numbers(s3, bucket, upload, key="k"):
    """The part numbers that an upload has."""
    listed = s3.list_parts(Bucket=bucket, Key=key, UploadId=upload)
    return [entry["PartNumber"] for entry in listed.get("Parts", [])]


def pending(s3, bucket):
    """(key, upload id) of each upload that goes on."""
    listed = s3.list_multipart_uploads(Bucket=bucket)
    return [(entry["Key"], entry["UploadId"]) for entry in listed.get("Uploads", [])]


def document(*parts):
    """The body of a completion, of (number, ETag) pairs."""
    inner = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in parts)
    return f"<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>".encode()


def raw_complete(server, bucket, upload, body, key="k", headers=None, **more):
    query = [("uploadId", upload)]
    return raw.request(server, "POST", f"/{bucket}/{key}", query=query, headers=headers, body=body, **more)


def metric(server, name):
    page = raw.send(server, "GET", "/_cullet/metrics").body.decode()
    return int(re.search(rf"^{name}(?:{{[^}}]*}})? (\d+)$", page, re.MULTILINE).group(1))


def bodies_on(server):
    """Stops the server, and lists every body on its disk: (what it is, whether a record names it)."""
    assert server.stop() == 0
    listed = subprocess.run(
        [str(harness.BINARY), "rescue", "list", str(server.disk)], capture_output=True, text=True, timeout=60
    )
    assert listed.returncode == 0, listed.stderr
    lines = [line.split(maxsplit=3) for line in listed.stdout.splitlines()]
    return [(int(size), rest) for _, size, name, rest in lines]


def settle(server, expected, seconds=30):
    """Waits until the disk holds as many bodies as expected; returns a running server's client.

    What no record names any more is deleted in the background, some of it at the next start.
    """
    deadline = time.monotonic() + seconds
    while True:
        while metric(server, "cullet_pending_deletes") and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        found = bodies_on(server)
        server.restart()
        if len(found) == expected:
            return server.client()
        assert time.monotonic() < deadline, found
