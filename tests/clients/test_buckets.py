import datetime

import pytest
from botocore.exceptions import ClientError

import raw
from harness import code_of


def test_a_bucket_from_creation_to_deletion(s3):
    s3.create_bucket(Bucket="first-bucket")
    s3.head_bucket(Bucket="first-bucket")
    listed = {bucket["Name"]: bucket for bucket in s3.list_buckets()["Buckets"]}
    created = listed["first-bucket"]["CreationDate"]
    age = datetime.datetime.now(datetime.timezone.utc) - created
    assert abs(age.total_seconds()) < 60
    s3.delete_bucket(Bucket="first-bucket")
    assert "first-bucket" not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    with pytest.raises(ClientError) as error:
        s3.head_bucket(Bucket="first-bucket")
    assert code_of(error)[0] == 404


def test_buckets_are_listed_by_name_and_have_an_owner(s3):
    for name in ("zz-listed", "aa-listed", "mm-listed"):
        s3.create_bucket(Bucket=name)
    answer = s3.list_buckets()
    names = [bucket["Name"] for bucket in answer["Buckets"]]
    assert names == sorted(names)
    assert {"aa-listed", "mm-listed", "zz-listed"} <= set(names)
    assert answer["Owner"]["ID"]


def test_location(s3, bucket):
    # us-east-1 is written as no constraint at all.
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None


def test_location_of_another_region(own_server):
    server = own_server("--region", "eu-central-1")
    s3 = server.client(region="eu-central-1")
    s3.create_bucket(Bucket="there", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    assert s3.get_bucket_location(Bucket="there")["LocationConstraint"] == "eu-central-1"
    assert s3.head_bucket(Bucket="there")["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"] == "eu-central-1"


def test_a_foreign_location_is_refused(s3):
    with pytest.raises(ClientError) as error:
        s3.create_bucket(Bucket="elsewhere", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    status, code = code_of(error)
    assert status == 400
    assert code in ("IllegalLocationConstraintException", "InvalidLocationConstraint")


def test_creating_again(s3, bucket):
    s3.put_object(Bucket=bucket, Key="kept", Body=b"kept")
    try:
        s3.create_bucket(Bucket=bucket)  # Amazon's us-east-1 says yes, everybody else no.
    except ClientError as error:
        assert code_of(error) == (409, "BucketAlreadyOwnedByYou")
    assert s3.get_object(Bucket=bucket, Key="kept")["Body"].read() == b"kept"


@pytest.mark.parametrize(
    "name", ["ab", "Upper", "under_score", "192.168.1.1", "two..dots", "-dash", "dash-", "a" * 64, ".dot"]
)
def test_invalid_names(s3, name):
    with pytest.raises(ClientError) as error:
        s3.create_bucket(Bucket=name)
    assert code_of(error) == (400, "InvalidBucketName")


def test_a_bucket_with_objects_stays(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    with pytest.raises(ClientError) as error:
        s3.delete_bucket(Bucket=bucket)
    assert code_of(error) == (409, "BucketNotEmpty")
    s3.delete_object(Bucket=bucket, Key="k")
    s3.delete_bucket(Bucket=bucket)


def test_a_bucket_made_anew_is_empty(s3):
    s3.create_bucket(Bucket="again")
    s3.put_object(Bucket="again", Key="old", Body=b"old")
    s3.delete_object(Bucket="again", Key="old")
    s3.delete_bucket(Bucket="again")
    s3.create_bucket(Bucket="again")
    assert s3.list_objects_v2(Bucket="again")["KeyCount"] == 0


@pytest.mark.parametrize(
    "operation, more",
    [
        ("delete_bucket", {}),
        ("get_bucket_location", {}),
        ("list_objects_v2", {}),
        ("list_objects", {}),
        ("list_object_versions", {}),
        ("get_object", {"Key": "k"}),
        ("put_object", {"Key": "k", "Body": b"x"}),
        ("delete_object", {"Key": "k"}),
        ("delete_objects", {"Delete": {"Objects": [{"Key": "k"}]}}),
    ],
)
def test_a_missing_bucket(s3, operation, more):
    with pytest.raises(ClientError) as error:
        getattr(s3, operation)(Bucket="there-is-no-such-bucket", **more)
    assert code_of(error) == (404, "NoSuchBucket")


def test_malformed_configuration(server):
    answer = raw.request(server, "PUT", "/malformed-bucket", body=b"<CreateBucketConfiguration><Loc")
    assert tuple(answer) == (400, "MalformedXML")
