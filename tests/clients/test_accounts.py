"""Several accounts and access keys: what each may see, what takes effect at once, what stays
after a crash, and what a stolen disk does not tell."""

import concurrent.futures
import http.server
import json
import mmap
import stat
import threading
import time
import urllib.error
import urllib.request

import pytest
from botocore.exceptions import ClientError

import harness
import raw
import test_forms
from harness import KIB, MIB, code_of

ADMIN = "/_cullet/admin/"


class Key:
    """An access key as `cullet key` prints it."""

    def __init__(self, ended):
        lines = dict(line.split("=", 1) for line in ended.stdout.splitlines())
        self.id = lines["AWS_ACCESS_KEY_ID"]
        self.secret = lines["AWS_SECRET_ACCESS_KEY"]

    def client(self, server):
        return server.client(self.id, self.secret)


def new_account(server, name):
    """An account's id, and a key of it."""
    account = server.manage("account", "create", name).stdout.strip()
    assert len(account) == 12 and account.isdigit() and account != "000000000000"
    return account, Key(server.manage("key", "create", "--account", account))


def refused_with(client):
    """What a client is told that asks for its buckets; None if it gets them."""
    try:
        client.list_buckets()
        return None
    except ClientError as error:
        return code_of(error)


def metric(server, name):
    page = raw.send(server, "GET", "/_cullet/metrics").body.decode()
    return [float(line.split()[-1]) for line in page.splitlines() if line.startswith(name + " ")]


def contains(directory, text):
    """The files that hold this text, anywhere."""
    found = []
    for path in directory.rglob("*"):
        if path.is_file() and path.stat().st_size:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data.find(text.encode()) >= 0:
                    found.append(path)
    return found


# One account's life ----------------------------------------------------------------------


def test_a_life(own_server):
    server = own_server()
    account, key = new_account(server, "analytics")
    s3 = key.client(server)
    s3.create_bucket(Bucket="data")
    s3.put_object(Bucket="data", Key="k", Body=b"mine")
    assert s3.get_object(Bucket="data", Key="k")["Body"].read() == b"mine"
    answer = s3.list_buckets()
    assert [bucket["Name"] for bucket in answer["Buckets"]] == ["data"]
    assert answer["Owner"]["ID"] == account

    server.manage("key", "disable", key.id)
    assert refused_with(s3) == (403, "InvalidAccessKeyId")
    server.manage("key", "enable", key.id)
    assert refused_with(s3) is None

    rotated = Key(server.manage("key", "rotate", key.id))
    assert rotated.id == key.id and rotated.secret != key.secret
    assert refused_with(s3) == (403, "SignatureDoesNotMatch")
    s3 = rotated.client(server)
    assert refused_with(s3) is None

    second = Key(server.manage("key", "create", "--account", "analytics", "--description", "two"))
    server.manage("account", "disable", "analytics")
    assert refused_with(s3) == refused_with(second.client(server)) == (403, "InvalidAccessKeyId")
    server.manage("account", "enable", account)
    assert refused_with(s3) is None and refused_with(second.client(server)) is None

    said = server.manage("account", "delete", account, status=1).stderr
    assert "1 buckets and 2 access keys" in said
    s3.delete_object(Bucket="data", Key="k")
    s3.delete_bucket(Bucket="data")
    for one in (key, second):
        server.manage("key", "delete", one.id)
        assert refused_with(one.client(server)) == (403, "InvalidAccessKeyId")
    server.manage("account", "delete", "analytics")
    assert "analytics" not in server.manage("account", "list").stdout


def test_a_refused_key_says_why(own_server):
    server = own_server()
    _, key = new_account(server, "one")
    signer = raw.Signer(server, key.id, key.secret)
    server.manage("key", "disable", key.id)
    assert b"access key is disabled" in raw.request(server, "GET", "/", signer=signer).body
    server.manage("key", "enable", key.id)
    server.manage("account", "disable", "one")
    assert b"account of this access key is disabled" in raw.request(server, "GET", "/", signer=signer).body


def test_lists(own_server):
    server = own_server()
    first, key = new_account(server, "first")
    second, other = new_account(server, "second")
    server.manage("key", "create", "--account", "second", "--description", "the \"nightly\" job ü")
    server.manage("key", "disable", key.id)
    lines = server.manage("account", "list").stdout.splitlines()
    assert lines[0].split() == ["ACCOUNT", "NAME", "STATE", "KEYS", "CREATED"]
    assert lines[1].split()[:4] == ["000000000000", "root", "enabled", "0"]
    rows = {line.split()[0]: line.split()[1:4] for line in lines[2:]}
    assert rows == {first: ["first", "enabled", "1"], second: ["second", "enabled", "2"]}
    keys = json.loads(server.manage("key", "list", "--json").stdout)["keys"]
    assert {(entry["id"], entry["enabled"]) for entry in keys} >= {(key.id, False), (other.id, True)}
    assert "the \"nightly\" job ü" in {entry["description"] for entry in keys}
    assert not any("secret" in entry for entry in keys)
    of_second = server.manage("key", "list", "--account", second).stdout
    assert of_second.count("CULLET") == 2 and key.id not in of_second
    assert key.secret not in of_second + server.manage("key", "list").stdout
    said = server.manage("key", "list", "--account", "nobody", status=1).stderr
    assert "nobody" in said


def test_a_long_list_comes_in_pages(own_server):
    server = own_server()
    account, _ = new_account(server, "many")

    def create(number):
        body = json.dumps({"account": account, "description": f"number {number}"}).encode()
        answer = raw.request(server, "POST", ADMIN + "keys/create", body=body)
        assert answer.status == 200
        return json.loads(answer.body)["key"]["id"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(create, range(1_100)))
    listed = json.loads(server.manage("key", "list", "--json").stdout)["keys"]
    assert len(listed) == 1_101 and ids < {entry["id"] for entry in listed}


@pytest.mark.parametrize("name", ["", "a b", "-x", "ü", "root", "123456789012", "x" * 65])
def test_names_that_are_none(server, name):
    said = server.manage("account", "create", "--", name, status=1).stderr
    assert len(said) > 20


def test_the_root_account_stays(server):
    for words in (
        ("account", "disable", "root"),
        ("account", "delete", "000000000000"),
        ("key", "create", "--account", "root"),
    ):
        assert "root account" in server.manage(*words, status=1).stderr
    for words in (("key", "disable"), ("key", "rotate"), ("key", "delete"), ("key", "enable")):
        assert "no access key" in server.manage(*words, harness.ACCESS_KEY, status=1).stderr
    assert refused_with(server.client()) is None


# Isolation -------------------------------------------------------------------------------


def test_accounts_see_nothing_of_each_other(own_server):
    server = own_server()
    _, first = new_account(server, "first")
    _, second = new_account(server, "second")
    mine, theirs, root = first.client(server), second.client(server), server.client()
    mine.create_bucket(Bucket="of-first")
    mine.put_object(Bucket="of-first", Key="k", Body=b"secret")
    theirs.create_bucket(Bucket="of-second")
    theirs.put_object(Bucket="of-second", Key="k", Body=b"another")
    root.create_bucket(Bucket="of-root")

    bucket = {"Bucket": "of-first"}
    key = {"Bucket": "of-first", "Key": "k"}
    for other in (theirs, root):
        for call, arguments in [
            (other.head_bucket, bucket),
            (other.get_bucket_location, bucket),
            (other.list_objects, bucket),
            (other.list_objects_v2, bucket),
            (other.list_object_versions, bucket),
            (other.get_object, key),
            (other.head_object, key),
            (other.put_object, {**key, "Body": b"evil"}),
            (other.put_object, {"Bucket": "of-first", "Key": "large", "Body": b"x" * MIB}),
            (other.delete_object, key),
            (other.delete_bucket, bucket),
        ]:
            with pytest.raises(ClientError) as error:
                call(**arguments)
            status, code = code_of(error)
            assert status == 403 and code in ("AccessDenied", "403"), (call, code)
        with pytest.raises(ClientError) as error:
            other.create_bucket(Bucket="of-first")
        assert code_of(error) == (409, "BucketAlreadyExists")
        url = other.generate_presigned_url("get_object", key, ExpiresIn=60)
        with pytest.raises(urllib.error.HTTPError) as failed:
            urllib.request.urlopen(url)
        assert failed.value.code == 403
    with pytest.raises(ClientError) as error:
        mine.create_bucket(Bucket="of-first")
    assert code_of(error) == (409, "BucketAlreadyOwnedByYou")

    names = lambda client: [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    assert (names(mine), names(theirs), names(root)) == (["of-first"], ["of-second"], ["of-root"])
    assert mine.get_object(**key)["Body"].read() == b"secret"
    assert [entry["Key"] for entry in mine.list_objects_v2(**bucket)["Contents"]] == ["k"]


def test_uploads_and_copies_stay_within_an_account(own_server):
    server = own_server()
    _, first = new_account(server, "first")
    _, second = new_account(server, "second")
    mine, theirs = first.client(server), second.client(server)
    mine.create_bucket(Bucket="of-first")
    theirs.create_bucket(Bucket="of-second")
    mine.put_object(Bucket="of-first", Key="k", Body=b"secret")
    key = {"Bucket": "of-first", "Key": "large"}
    upload = mine.create_multipart_upload(**key)["UploadId"]
    part = mine.upload_part(**key, UploadId=upload, PartNumber=1, Body=b"x" * 6 * MIB)
    theirs.put_object(Bucket="of-second", Key="own", Body=b"another")
    own = {"Bucket": "of-second", "Key": "large"}
    own_upload = theirs.create_multipart_upload(**own)["UploadId"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    source = {"Bucket": "of-first", "Key": "k"}
    for call, arguments in [
        (theirs.create_multipart_upload, key),
        (theirs.upload_part, {**key, "UploadId": upload, "PartNumber": 1, "Body": b"evil"}),
        (theirs.complete_multipart_upload, {**key, "UploadId": upload, "MultipartUpload": parts}),
        (theirs.abort_multipart_upload, {**key, "UploadId": upload}),
        (theirs.list_parts, {**key, "UploadId": upload}),
        (theirs.list_multipart_uploads, {"Bucket": "of-first"}),
        (theirs.copy_object, {"Bucket": "of-second", "Key": "k", "CopySource": source}),
        (theirs.copy_object, {**source, "CopySource": "of-second/own"}),
        (theirs.upload_part_copy, {**own, "UploadId": own_upload, "PartNumber": 1, "CopySource": source}),
        (theirs.get_object_attributes, {**source, "ObjectAttributes": ["ETag"]}),
    ]:
        with pytest.raises(ClientError) as error:
            call(**arguments)
        assert code_of(error) == (403, "AccessDenied"), (call, code_of(error))
    posted = theirs.generate_presigned_post("of-first", "k")
    answer = test_forms.post(server, "of-first", posted["fields"], b"evil")
    assert tuple(answer) == (403, "AccessDenied")
    mine.complete_multipart_upload(**key, UploadId=upload, MultipartUpload=parts)
    assert mine.get_object(**key)["ContentLength"] == 6 * MIB
    assert mine.get_object(**source)["Body"].read() == b"secret"
    assert theirs.list_objects_v2(Bucket="of-second")["KeyCount"] == 1


def test_deleting_many_of_others_deletes_none(own_server):
    server = own_server()
    _, first = new_account(server, "first")
    _, second = new_account(server, "second")
    mine, theirs = first.client(server), second.client(server)
    mine.create_bucket(Bucket="of-first")
    mine.put_object(Bucket="of-first", Key="k", Body=b"kept")
    try:
        answer = theirs.delete_objects(Bucket="of-first", Delete={"Objects": [{"Key": "k"}]})
        assert [error["Code"] for error in answer["Errors"]] == ["AccessDenied"]
        assert not answer.get("Deleted")
    except ClientError as error:
        assert code_of(error) == (403, "AccessDenied")
    assert mine.get_object(Bucket="of-first", Key="k")["Body"].read() == b"kept"


def test_an_expected_owner_is_the_callers_account(own_server):
    server = own_server()
    account, key = new_account(server, "one")
    s3 = key.client(server)
    s3.create_bucket(Bucket="mine")
    s3.head_bucket(Bucket="mine", ExpectedBucketOwner=account)
    with pytest.raises(ClientError):
        s3.head_bucket(Bucket="mine", ExpectedBucketOwner="000000000000")


def test_settings_are_not_told_to_others(own_server):
    server = own_server()
    server.client().create_bucket(Bucket="mine")
    stranger = new_account(server, "stranger")[1].client(server)
    for name in ("get_bucket_acl", "get_bucket_versioning", "get_bucket_policy", "delete_bucket_policy"):
        with pytest.raises(ClientError) as error:
            getattr(stranger, name)(Bucket="mine")
        assert code_of(error) == (403, "AccessDenied")


def test_many_buckets_of_others_do_not_show(own_server):
    server = own_server()
    keys = [new_account(server, f"account-{number}")[1] for number in range(3)]
    clients = [key.client(server) for key in keys]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: clients[n % 3].create_bucket(Bucket=f"b{n:03}-of-{n % 3}"), range(60)))
    for number, client in enumerate(clients):
        names, token = [], {}
        while True:
            page = client.list_buckets(MaxBuckets=7, **token)
            names += [bucket["Name"] for bucket in page["Buckets"]]
            if "ContinuationToken" not in page:
                break
            token = {"ContinuationToken": page["ContinuationToken"]}
        assert names == [f"b{n:03}-of-{number}" for n in range(number, 60, 3)]
    page = clients[1].list_buckets(Prefix="b00")
    assert [bucket["Name"] for bucket in page["Buckets"]] == ["b001-of-1", "b004-of-1", "b007-of-1"]


# At once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["disable", "rotate", "delete", "account"])
def test_what_begins_after_a_change_meets_it(own_server, change):
    server = own_server()
    _, key = new_account(server, "busy")
    key.client(server).create_bucket(Bucket="busy")
    stop, passed = threading.Event(), []

    def hammer():
        s3 = key.client(server)
        while not stop.is_set():
            began = time.monotonic()
            try:
                s3.list_objects_v2(Bucket="busy")
                passed.append(began)
            except ClientError as error:
                assert code_of(error)[0] == 403

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        running = [pool.submit(hammer) for _ in range(6)]
        give_up = time.monotonic() + 30
        while len(passed) < 30 and time.monotonic() < give_up:
            time.sleep(0.01)
        words = ("account", "disable", "busy") if change == "account" else ("key", change, key.id)
        server.manage(*words)
        done = time.monotonic()
        time.sleep(0.5)
        stop.set()
        for one in running:
            one.result()
    assert len(passed) >= 30
    assert max(passed) < done


# Crashes ---------------------------------------------------------------------------------


def test_changes_survive_kill(own_server):
    server = own_server()
    _, kept = new_account(server, "kept")
    _, gone = new_account(server, "gone")
    rotated = Key(server.manage("key", "create", "--account", "kept"))
    kept.client(server).create_bucket(Bucket="kept")
    server.kill()
    server.restart()
    assert refused_with(kept.client(server)) is None
    server.manage("key", "disable", gone.id)
    server.kill()
    server.restart()
    assert refused_with(gone.client(server)) == (403, "InvalidAccessKeyId")
    again = Key(server.manage("key", "rotate", rotated.id))
    server.kill()
    server.restart()
    assert refused_with(rotated.client(server)) == (403, "SignatureDoesNotMatch")
    assert refused_with(again.client(server)) is None
    server.manage("key", "delete", gone.id)
    server.manage("account", "delete", "gone")
    server.kill()
    server.restart()
    assert gone.id not in server.manage("key", "list").stdout
    assert "gone" not in server.manage("account", "list").stdout
    buckets = kept.client(server).list_buckets()["Buckets"]
    assert [bucket["Name"] for bucket in buckets] == ["kept"]
    assert server.stop() == 0
    server.restart()
    assert refused_with(again.client(server)) is None


def test_what_was_acknowledged_under_load_survives_kill(own_server):
    server = own_server()
    account, _ = new_account(server, "load")
    done = []

    def create(_):
        try:
            while True:
                body = json.dumps({"account": account}).encode()
                answer = raw.request(server, "POST", ADMIN + "keys/create", body=body)
                key = json.loads(answer.body)["key"]
                done.append((key["id"], key["secret"]))
        except Exception:
            return  # The server is gone.

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = [pool.submit(create, number) for number in range(4)]
        time.sleep(1.5)
        server.kill()
        for one in running:
            one.result()
    assert len(done) > 20
    server.restart()
    for access_key, secret in done:
        signer = raw.Signer(server, access_key, secret)
        assert raw.request(server, "GET", "/", signer=signer).status == 200


# Secrets ---------------------------------------------------------------------------------


def test_a_stolen_disk_tells_no_secret(own_server, tmp_path):
    log = tmp_path / "access.log"
    server = own_server(
        "--access-log", log, "--log", "debug", CULLET_ACCESS_KEY_ID=None, CULLET_SECRET_ACCESS_KEY=None
    )
    (file,) = (server.config / "cullet").iterdir()
    kept = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    root = dict(
        CULLET_ACCESS_KEY_ID=kept["CULLET_ACCESS_KEY_ID"], CULLET_SECRET_ACCESS_KEY=kept["CULLET_SECRET_ACCESS_KEY"]
    )
    account = server.manage("account", "create", "one", **root).stdout.strip()
    first = Key(server.manage("key", "create", "--account", account, **root))
    s3 = first.client(server)
    s3.create_bucket(Bucket="mine")
    s3.put_object(Bucket="mine", Key="k", Body=b"x" * 20 * KIB)
    second = Key(server.manage("key", "rotate", first.id, **root))
    # Without credentials in its environment the command finds the only file there is.
    found = server.manage(
        "account", "list", CULLET_ACCESS_KEY_ID=None, CULLET_SECRET_ACCESS_KEY=None, XDG_CONFIG_HOME=server.config
    )
    assert "one" in found.stdout
    named = server.manage("key", "list", "--credentials", file, CULLET_ACCESS_KEY_ID="wrong")
    assert first.id in named.stdout
    assert server.stop() == 0
    assert contains(server.disk, first.id), "the search finds what is there"
    for secret in (
        first.secret,
        second.secret,
        kept["CULLET_SECRET_ACCESS_KEY"],
        kept["CULLET_MASTER_KEY"],
    ):
        assert len(secret) >= 40
        assert contains(server.disk, secret) == []
        assert secret not in log.read_text()
        assert secret not in server.log.read_text()
    assert bytes.fromhex(kept["CULLET_MASTER_KEY"]) not in b"".join(p.read_bytes() for p in server.disk.iterdir())
    server.restart()
    assert refused_with(second.client(server)) is None


def test_the_root_key_from_the_environment(own_server):
    """The master key is made when it is needed first, and said once."""
    server = own_server()
    assert not server.config.exists()
    server.manage("account", "create", "one")
    assert not server.config.exists()
    made = server.manage("key", "create", "--account", "one")
    (file,) = (server.config / "cullet").iterdir()
    assert file.read_text().startswith("CULLET_MASTER_KEY=") and len(file.read_text().splitlines()) == 1
    assert str(file) in made.stderr and "keep a copy" in made.stderr
    assert "keep a copy" not in server.manage("key", "create", "--account", "one").stderr
    assert server.stop() == 0
    server.restart()
    assert refused_with(Key(made).client(server)) is None


def test_no_place_for_the_master_key(own_server):
    server = own_server(XDG_CONFIG_HOME=None, HOME=None)
    server.manage("account", "create", "one")
    said = server.manage("key", "create", "--account", "one", status=1).stderr
    assert "CULLET_MASTER_KEY" in said and "--credentials" in said
    assert server.stop() == 0
    server.env_changes["CULLET_MASTER_KEY"] = "5a" * 32
    server.restart()
    key = Key(server.manage("key", "create", "--account", "one"))
    assert refused_with(key.client(server)) is None


def test_another_master_key(own_server):
    server = own_server(CULLET_MASTER_KEY="01" * 32)
    _, key = new_account(server, "one")
    key.client(server).create_bucket(Bucket="mine")
    for master in ("02" * 32, None):
        assert server.stop() == 0
        server.log.unlink()
        server.env_changes["CULLET_MASTER_KEY"] = master
        server.restart()
        assert server.complaints().count("sealed with another master key") == 1
        assert metric(server, "cullet_access_keys_unreadable") == [1.0]
        assert refused_with(key.client(server)) == (403, "InvalidAccessKeyId")
        assert refused_with(server.client()) is None
        assert "sealed with another master key" in server.manage("key", "list").stdout
        # With a second master key there would be none that opens all secrets.
        said = server.manage("key", "create", "--account", "one", status=1).stderr
        assert "another master key" in said and "CULLET_MASTER_KEY" in said
    healed = Key(server.manage("key", "rotate", key.id))
    buckets = healed.client(server).list_buckets()["Buckets"]
    assert [bucket["Name"] for bucket in buckets] == ["mine"]
    assert metric(server, "cullet_access_keys_unreadable") == [0.0]
    assert server.stop() == 0
    server.restart()
    assert refused_with(healed.client(server)) is None


def test_the_log_tells_who_asked(own_server, tmp_path):
    log = tmp_path / "access.log"
    server = own_server("--access-log", log, "--log-format", "json")
    account, key = new_account(server, "one")
    key.client(server).list_buckets()
    raw.request(server, "GET", "/", signer=raw.Signer(server, key.id, "wrong-secret"))
    assert server.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = [(line["operation"], line["account"], line["access_key"], line["status"]) for line in lines]
    assert ("Admin", "000000000000", harness.ACCESS_KEY, 200) in told
    assert ("ListBuckets", account, key.id, 200) in told
    assert told[-1][1:] == (None, None, 403), "what nobody verified is not told"


# Who may administer ----------------------------------------------------------------------


def test_only_the_root_key_administers(own_server):
    server = own_server()
    account, key = new_account(server, "one")
    env = dict(CULLET_ACCESS_KEY_ID=key.id, CULLET_SECRET_ACCESS_KEY=key.secret)
    for words in (
        ("account", "list"),
        ("account", "create", "two"),
        ("key", "list"),
        ("key", "create", "--account", account),
        ("key", "rotate", key.id),
    ):
        assert "Only the root key" in server.manage(*words, status=1, **env).stderr
    signer = raw.Signer(server, key.id, key.secret)
    signed = signer.headers("GET", "/_cullet/metrics", payload=raw.EMPTY_SHA256)
    answer = raw.send(server, "GET", "/_cullet/metrics", {**signed, "X-Forwarded-For": "192.0.2.1"})
    assert tuple(answer) == (403, "AccessDenied")
    assert len(server.manage("account", "list").stdout.splitlines()) == 3


def test_requests_to_administer_are_signed_whole(server):
    path = ADMIN + "accounts/list"
    assert tuple(raw.send(server, "POST", path, body=b"{}")) == (403, "AccessDenied")
    query = raw.Signer(server).presigned("POST", path, 60)
    assert tuple(raw.send(server, "POST", f"{path}?{query}", body=b"{}")) == (400, "InvalidRequest")
    unsigned = raw.request(server, "POST", path, body=b"{}", payload=raw.UNSIGNED)
    assert tuple(unsigned) == (400, "InvalidRequest")
    signed = raw.Signer(server).headers("POST", path, payload=raw.hashlib.sha256(b"{}").hexdigest())
    assert raw.send(server, "POST", path, signed, b"{}").status == 200
    evil = raw.send(server, "POST", path, signed, b"[]")
    assert tuple(evil) == (400, "XAmzContentSHA256Mismatch")
    other = raw.send(server, "POST", ADMIN + "keys/list", signed, b"{}")
    assert tuple(other) == (403, "SignatureDoesNotMatch")
    old = raw.Signer(server, time=raw.now(-20 * 60))
    assert tuple(raw.request(server, "POST", path, body=b"{}", signer=old)) == (403, "RequestTimeTooSkewed")


@pytest.mark.parametrize(
    "method, operation, body, status",
    [
        ("GET", "accounts/list", b"", 405),
        ("DELETE", "accounts/list", b"", 405),
        ("POST", "accounts/list", b"", 400),
        ("POST", "accounts/list", b"[]", 400),
        ("POST", "accounts/list", b"{", 400),
        ("POST", "accounts/list", b"[" * 10_000, 400),
        ("POST", "accounts/list", b'{"more": 1}', 400),
        ("POST", "accounts/list", b'{"after": 1}', 400),
        ("POST", "accounts/list", b'{"after": "x"}', 400),
        ("POST", "accounts/create", b"{}", 400),
        ("POST", "accounts/create", b'{"name": "\xff"}', 400),
        ("POST", "keys/create", b'{"account": "nobody"}', 404),
        ("POST", "keys/delete", b'{"key": "%s"}' % (b"x" * 9_000), 404),
        ("POST", "", b"{}", 404),
        ("POST", "accounts/list/", b"{}", 404),
    ],
)
def test_requests_that_are_none(server, method, operation, body, status):
    answer = raw.request(server, method, ADMIN + operation, body=body)
    assert answer.status == status, answer.body


def test_a_request_that_is_too_long(server):
    body = b'{"name": "' + b"x" * 20 * KIB + b'"}'
    answer = raw.request(server, "POST", ADMIN + "accounts/create", body=body)
    assert answer.status == 400 and answer.code == "EntityTooLarge", answer.body


def test_administration_is_no_bucket(server, s3):
    """Its path begins like no bucket's name, and a bucket's objects never answer there."""
    answer = raw.request(server, "PUT", "/_cullet/admin/accounts/list", body=b"x")
    assert answer.status == 405


# The commands ----------------------------------------------------------------------------


def test_commands_say_what_is_wrong(own_server):
    server = own_server()
    listed = ("account", "list")
    said = server.manage(*listed, status=1, CULLET_SECRET_ACCESS_KEY="wrong-secret").stderr
    assert harness.ACCESS_KEY in said and "secret" in said
    said = server.manage(*listed, status=1, CULLET_ACCESS_KEY_ID="NOBODY").stderr
    assert "NOBODY" in said and "root key" in said
    said = server.manage(*listed, "--region", "eu-west-1", status=1).stderr
    assert "--region us-east-1" in said
    said = server.manage(
        *listed, status=1, CULLET_ACCESS_KEY_ID=None, CULLET_SECRET_ACCESS_KEY=None
    ).stderr
    assert "CULLET_ACCESS_KEY_ID" in said and "--credentials" in said
    said = server.manage(*listed, "--credentials", "/nonexistent", status=1).stderr
    assert "/nonexistent does not exist" in said
    assert server.stop() == 0
    said = server.manage(*listed, status=1).stderr
    assert server.url in said and "cullet server" in said


@pytest.mark.parametrize(
    "words",
    [
        ("account",),
        ("account", "create"),
        ("account", "frobnicate"),
        ("key", "create"),
        ("key", "rotate"),
        ("account", "list", "--endpoint", "nowhere"),
        ("account", "list", "--endpoint", "https://"),
        ("account", "list", "--no-such-flag"),
    ],
)
def test_wrong_usage_of_commands(server, words):
    assert server.manage(*words, status=2).stderr


@pytest.mark.parametrize("words", [("account", "--help"), ("key", "--help"), ("key", "create", "--help")])
def test_help_teaches(server, words):
    shown = server.manage(*words).stdout
    assert "--endpoint" in shown and "--credentials" in shown
    if len(words) == 2:
        assert "Examples:" in shown and "Exit status" in shown


def test_commands_understand_any_answer():
    """Whatever answers there, and however it breaks off."""
    skewed = (
        b"<?xml version='1.0'?><Error><Code>RequestTimeTooSkewed</Code><Message>m</Message></Error>"
    )
    answers = [
        (b"HTTP/1.1 403 Forbidden\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n" + skewed, "01 Jan 1970"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n<html>hi", "HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>hi", "not as a cullet server"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "502"),
        (b"SSH-2.0-OpenSSH\r\n", "HTTP"),
        (b"", "HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2 * MIB, "more than"),
    ]
    for answer, word in answers:

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle(self):
                self.request.recv(65536)
                self.request.sendall(answer)

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as fake:
            threading.Thread(target=fake.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{fake.server_port}"
            ended = harness.Server.manage(
                type("Fake", (), {"url": url})(), "account", "list", status=1
            )
            fake.shutdown()
        assert word in ended.stderr, (answer[:50], ended.stderr)
