"""What is not there yet says so, and nothing that matters is silently ignored."""

import base64

import pytest
from botocore.exceptions import ClientError

import raw
from harness import code_of

OPERATIONS = {
    "put_object_tagging": {"Key": "k", "Tagging": {"TagSet": [{"Key": "a", "Value": "b"}]}},
    "get_object_legal_hold": {"Key": "k"},
    "get_object_retention": {"Key": "k"},
    "restore_object": {"Key": "k", "RestoreRequest": {"Days": 1}},
    "put_bucket_policy": {"Policy": "{}"},
    "put_bucket_accelerate_configuration": {"AccelerateConfiguration": {"Status": "Enabled"}},
    "put_bucket_ownership_controls": {"OwnershipControls": {"Rules": [{"ObjectOwnership": "ObjectWriter"}]}},
    "put_bucket_request_payment": {"RequestPaymentConfiguration": {"Payer": "Requester"}},
    "put_bucket_website": {"WebsiteConfiguration": {"IndexDocument": {"Suffix": "index.html"}}},
    "put_public_access_block": {"PublicAccessBlockConfiguration": {"BlockPublicAcls": False}},
    "delete_bucket_ownership_controls": {},
    "put_bucket_cors": {"CORSConfiguration": {"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]}},
    "put_bucket_tagging": {"Tagging": {"TagSet": [{"Key": "a", "Value": "b"}]}},
    "put_bucket_versioning": {"VersioningConfiguration": {"Status": "Enabled"}},
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_not_implemented(s3, bucket, name):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with pytest.raises(ClientError) as error:
        getattr(s3, name)(Bucket=bucket, **OPERATIONS[name])
    assert code_of(error) == (501, "NotImplemented")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_metrics_name_what_is_missing(server, s3, bucket):
    for operation in ("put_bucket_policy", "put_object_tagging"):
        with pytest.raises(ClientError):
            getattr(s3, operation)(Bucket=bucket, **OPERATIONS[operation])
    page = raw.send(server, "GET", "/_cullet/metrics").body.decode()
    for operation in ("PutBucketPolicy", "PutObjectTagging"):
        assert f'cullet_requests_total{{operation="{operation}",status="501"}}' in page
    assert 'operation="NotImplemented"' not in page


def test_the_answer_is_proper_xml(server, bucket):
    import xml.etree.ElementTree as tree

    answer = raw.request(server, "GET", f"/{bucket}", query=[("inventory", "")])
    assert answer.status == 501
    error = tree.fromstring(answer.body)
    assert (error.tag, error.findtext("Code")) == ("Error", "NotImplemented")
    assert error.findtext("RequestId") == answer.headers["x-amz-request-id"]


SSE_KEY = base64.b64encode(bytes(32)).decode()

# Each of these asks for protection or behaviour that is not there: saying yes would be a lie.
ASKING = {
    "tags": {"Tagging": "a=b"},
    "a public ACL": {"ACL": "public-read"},
    "a grant": {"GrantRead": "id=somebody"},
    "encryption": {"ServerSideEncryption": "AES256"},
    "encryption by KMS": {"ServerSideEncryption": "aws:kms"},
    "encryption with a key": {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": SSE_KEY},
    "a lock": {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": "2031-01-01T00:00:00Z"},
    "a legal hold": {"ObjectLockLegalHoldStatus": "ON"},
    "a redirect": {"WebsiteRedirectLocation": "/elsewhere"},
    "cold storage": {"StorageClass": "GLACIER"},
}


@pytest.mark.parametrize("what", ASKING)
@pytest.mark.parametrize("name", ["put_object", "create_multipart_upload", "copy_object"])
def test_a_put_is_not_half_understood(s3, bucket, name, what):
    s3.put_object(Bucket=bucket, Key="source", Body=b"x")
    more = {"put_object": {"Body": b"x"}, "copy_object": {"CopySource": {"Bucket": bucket, "Key": "source"}}}
    with pytest.raises(ClientError) as error:
        getattr(s3, name)(Bucket=bucket, Key="k", **more.get(name, {}), **ASKING[what])
    status, code = code_of(error)
    assert (status, code) in (
        (501, "NotImplemented"),
        (400, "InvalidRequest"),
        (400, "InvalidArgument"),
        (400, "InvalidStorageClass"),
        (400, "AccessControlListNotSupported"),
    )
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_what_changes_nothing_is_accepted(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", StorageClass="STANDARD")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_a_bucket_with_object_lock(s3):
    with pytest.raises(ClientError) as error:
        s3.create_bucket(Bucket="locked-bucket", ObjectLockEnabledForBucket=True)
    assert code_of(error)[0] in (400, 501)


def test_methods_that_s3_does_not_know(server, bucket):
    for method in ("PATCH", "TRACE", "BREW"):
        answer = raw.request(server, method, f"/{bucket}/k")
        assert answer.status in (400, 405, 501), method
