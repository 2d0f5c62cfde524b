"""What tools ask of buckets and objects before they do anything: nothing can be set, and that is
what they are told, as S3 tells it."""

import pytest
from botocore.exceptions import ClientError

import raw
from harness import code_of

ABSENT = {
    "get_bucket_cors": "NoSuchCORSConfiguration",
    "get_bucket_encryption": "ServerSideEncryptionConfigurationNotFoundError",
    "get_bucket_lifecycle_configuration": "NoSuchLifecycleConfiguration",
    "get_bucket_policy": "NoSuchBucketPolicy",
    "get_bucket_policy_status": "NoSuchBucketPolicy",
    "get_bucket_replication": "ReplicationConfigurationNotFoundError",
    "get_bucket_tagging": "NoSuchTagSet",
    "get_bucket_website": "NoSuchWebsiteConfiguration",
    "get_object_lock_configuration": "ObjectLockConfigurationNotFoundError",
    "get_public_access_block": "NoSuchPublicAccessBlockConfiguration",
}

EMPTY = {
    "get_bucket_accelerate_configuration": {},
    "get_bucket_logging": {},
    "get_bucket_notification_configuration": {},
    "get_bucket_ownership_controls": {"OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}},
    "get_bucket_request_payment": {"Payer": "BucketOwner"},
    "get_bucket_versioning": {},
}

REMOVALS = [
    "delete_bucket_cors",
    "delete_bucket_encryption",
    "delete_bucket_lifecycle",
    "delete_bucket_policy",
    "delete_bucket_replication",
    "delete_bucket_tagging",
    "delete_bucket_website",
    "delete_public_access_block",
]

OWNER = "000000000000"
OWNERS_GRANT = [{"Grantee": {"ID": OWNER, "Type": "CanonicalUser"}, "Permission": "FULL_CONTROL"}]


def answer_of(response):
    return {name: value for name, value in response.items() if name != "ResponseMetadata"}


@pytest.mark.parametrize("name", ABSENT)
def test_what_no_bucket_has(s3, bucket, name):
    with pytest.raises(ClientError) as error:
        getattr(s3, name)(Bucket=bucket)
    assert code_of(error) == (404, ABSENT[name])


@pytest.mark.parametrize("name", EMPTY)
def test_what_holds_for_every_bucket(s3, bucket, name):
    assert answer_of(getattr(s3, name)(Bucket=bucket)) == EMPTY[name]


@pytest.mark.parametrize("name", REMOVALS)
def test_what_is_not_there_is_removed(s3, bucket, name):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert getattr(s3, name)(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


@pytest.mark.parametrize("name", [*ABSENT, *EMPTY, *REMOVALS, "get_bucket_acl"])
def test_a_bucket_must_be_there(s3, name):
    with pytest.raises(ClientError) as error:
        getattr(s3, name)(Bucket="no-such-bucket")
    assert code_of(error) == (404, "NoSuchBucket")


def test_acls_name_the_owner(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for name, place in (("bucket", {}), ("object", {"Key": "k"})):
        got = getattr(s3, f"get_{name}_acl")(Bucket=bucket, **place)
        assert (got["Owner"], got["Grants"]) == ({"ID": OWNER}, OWNERS_GRANT)
        put = getattr(s3, f"put_{name}_acl")
        put(Bucket=bucket, ACL="private", **place)
        with pytest.raises(ClientError) as error:
            put(Bucket=bucket, ACL="public-read", **place)
        assert code_of(error) == (501, "NotImplemented")
        everybody = {"Grantee": {"Type": "Group", "URI": "http://acs.amazonaws.com/groups/global/AllUsers"}}
        policy = {"Owner": {"ID": OWNER}, "Grants": [{**everybody, "Permission": "READ"}]}
        with pytest.raises(ClientError) as error:
            put(Bucket=bucket, AccessControlPolicy=policy, **place)
        assert code_of(error) == (400, "AccessControlListNotSupported")
        # What was got may be put.
        same = {"Owner": got["Owner"], "Grants": got["Grants"]}
        put(Bucket=bucket, AccessControlPolicy=same, **place)
        assert getattr(s3, f"get_{name}_acl")(Bucket=bucket, **place)["Grants"] == OWNERS_GRANT


@pytest.mark.parametrize("name", ["get_object_acl", "get_object_tagging", "delete_object_tagging"])
def test_an_object_must_be_there(s3, bucket, name):
    with pytest.raises(ClientError) as error:
        getattr(s3, name)(Bucket=bucket, Key="k")
    assert code_of(error) == (404, "NoSuchKey")


def test_objects_have_no_tags(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []
    assert s3.delete_object_tagging(Bucket=bucket, Key="k")["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_strangers_may_not_ask(server, bucket):
    for setting in ("policy", "acl", "versioning"):
        assert raw.send(server, "GET", f"/{bucket}?{setting}").code == "AccessDenied"
