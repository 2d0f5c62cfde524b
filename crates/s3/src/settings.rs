//! What buckets and objects are set to, while nothing can be set yet. Tools ask for it before and
//! after whatever else they do, and get S3's own answer: the setting that holds for everybody, or
//! that there is none. To remove what is not there succeeds, as it does in S3.
//!
//! What must always hold: no answer says more than is true, and nothing that would change a
//! setting is accepted.

use http::StatusCode;
use objects::AccountId;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use crate::door::{Door, caller};
use crate::errors::{custom, from_objects};
use crate::view::check_version;

/// The answer to who asks for a setting that no bucket has; `None` for other operations.
pub(crate) fn absent(operation: &str) -> Option<S3Error> {
    let code = match operation {
        "GetBucketCors" => S3ErrorCode::NoSuchCORSConfiguration,
        "GetBucketEncryption" => S3ErrorCode::ServerSideEncryptionConfigurationNotFoundError,
        "GetBucketLifecycleConfiguration" => S3ErrorCode::NoSuchLifecycleConfiguration,
        "GetBucketPolicy" | "GetBucketPolicyStatus" => S3ErrorCode::NoSuchBucketPolicy,
        "GetBucketReplication" => S3ErrorCode::ReplicationConfigurationNotFoundError,
        "GetBucketTagging" => S3ErrorCode::NoSuchTagSet,
        "GetBucketWebsite" => S3ErrorCode::NoSuchWebsiteConfiguration,
        "GetObjectLockConfiguration" => S3ErrorCode::ObjectLockConfigurationNotFoundError,
        "GetPublicAccessBlock" => {
            return Some(custom(
                "NoSuchPublicAccessBlockConfiguration",
                StatusCode::NOT_FOUND,
                "The public access block configuration was not found",
            ));
        }
        _ => return None,
    };
    let mut error = S3Error::with_message(code, "The bucket has no such configuration.");
    error.set_status_code(StatusCode::NOT_FOUND);
    Some(error)
}

impl Door {
    /// Whether there is such a bucket of the caller's.
    async fn find_bucket(&self, account: AccountId, bucket: &str) -> S3Result<()> {
        let found = self.objects.head_bucket(&account, bucket).await;
        found.map(drop).map_err(from_objects)
    }

    async fn find_object(
        &self,
        account: AccountId,
        (bucket, key): (&str, &str),
        version: Option<&str>,
    ) -> S3Result<()> {
        check_version(version)?;
        let found = self.objects.get(&account, bucket, key).await;
        found.map(drop).map_err(from_objects)
    }

    /// The owner may do everything, and nobody else anything.
    fn grants(&self, account: AccountId) -> Grants {
        vec![Grant {
            grantee: Some(Grantee {
                display_name: None,
                email_address: None,
                id: self.owner(account).id,
                type_: Type::from_static(Type::CANONICAL_USER),
                uri: None,
            }),
            permission: Some(Permission::from_static(Permission::FULL_CONTROL)),
        }]
    }
}

impl Door {
    /// Which canned ACLs hold anyway, the gate knows. A document may say what it is told who asks
    /// for the ACL: s3cmd sets for a copy what it got for the source.
    fn check_acl(
        &self,
        account: AccountId,
        is_canned: bool,
        policy: Option<AccessControlPolicy>,
    ) -> S3Result<()> {
        let granted = policy.and_then(|policy| policy.grants).unwrap_or_default();
        let id = |grant: &Grant| {
            grant
                .grantee
                .as_ref()
                .and_then(|grantee| grantee.id.clone())
        };
        let holds = |grant: &Grant| {
            let full = grant.permission.as_ref().map(Permission::as_str);
            full == Some(Permission::FULL_CONTROL) && id(grant) == self.owner(account).id
        };
        match is_canned || (!granted.is_empty() && granted.iter().all(holds)) {
            true => Ok(()),
            false => Err(s3_error!(
                AccessControlListNotSupported,
                "The bucket does not allow ACLs: it and its objects belong to one account, and no \
                 other may read or write."
            )),
        }
    }
}

/// Operations on a bucket whose answer says nothing: what they ask for is off, or what they
/// remove is not there.
macro_rules! nothing_to_say {
    ($($name:ident: $input:ty => $output:ty;)*) => {$(
        pub(crate) async fn $name(
            door: &Door,
            req: S3Request<$input>,
        ) -> S3Result<S3Response<$output>> {
            door.find_bucket(caller(&req)?, &req.input.bucket).await?;
            Ok(S3Response::new(Default::default()))
        }
    )*};
}

nothing_to_say! {
    accelerate: GetBucketAccelerateConfigurationInput => GetBucketAccelerateConfigurationOutput;
    logging: GetBucketLoggingInput => GetBucketLoggingOutput;
    notification: GetBucketNotificationConfigurationInput => GetBucketNotificationConfigurationOutput;
    versioning: GetBucketVersioningInput => GetBucketVersioningOutput;
    delete_cors: DeleteBucketCorsInput => DeleteBucketCorsOutput;
    delete_encryption: DeleteBucketEncryptionInput => DeleteBucketEncryptionOutput;
    delete_lifecycle: DeleteBucketLifecycleInput => DeleteBucketLifecycleOutput;
    delete_policy: DeleteBucketPolicyInput => DeleteBucketPolicyOutput;
    delete_public_access: DeletePublicAccessBlockInput => DeletePublicAccessBlockOutput;
    delete_replication: DeleteBucketReplicationInput => DeleteBucketReplicationOutput;
    delete_tagging: DeleteBucketTaggingInput => DeleteBucketTaggingOutput;
    delete_website: DeleteBucketWebsiteInput => DeleteBucketWebsiteOutput;
}

/// The same of an object.
macro_rules! nothing_to_say_of_object {
    ($($name:ident: $input:ty => $output:ty;)*) => {$(
        pub(crate) async fn $name(
            door: &Door,
            req: S3Request<$input>,
        ) -> S3Result<S3Response<$output>> {
            let (account, input) = (caller(&req)?, req.input);
            let (place, version) = ((&*input.bucket, &*input.key), input.version_id.as_deref());
            door.find_object(account, place, version).await?;
            Ok(S3Response::new(Default::default()))
        }
    )*};
}

nothing_to_say_of_object! {
    object_tagging: GetObjectTaggingInput => GetObjectTaggingOutput;
    delete_object_tagging: DeleteObjectTaggingInput => DeleteObjectTaggingOutput;
}

pub(crate) async fn acl(
    door: &Door,
    req: S3Request<GetBucketAclInput>,
) -> S3Result<S3Response<GetBucketAclOutput>> {
    let account = caller(&req)?;
    door.find_bucket(account, &req.input.bucket).await?;
    Ok(S3Response::new(GetBucketAclOutput {
        grants: Some(door.grants(account)),
        owner: Some(door.owner(account)),
    }))
}

pub(crate) async fn object_acl(
    door: &Door,
    req: S3Request<GetObjectAclInput>,
) -> S3Result<S3Response<GetObjectAclOutput>> {
    let (account, input) = (caller(&req)?, req.input);
    let (place, version) = ((&*input.bucket, &*input.key), input.version_id.as_deref());
    door.find_object(account, place, version).await?;
    Ok(S3Response::new(GetObjectAclOutput {
        grants: Some(door.grants(account)),
        owner: Some(door.owner(account)),
        request_charged: None,
    }))
}

/// Only what holds anyway.
pub(crate) async fn put_acl(
    door: &Door,
    req: S3Request<PutBucketAclInput>,
) -> S3Result<S3Response<PutBucketAclOutput>> {
    let (account, input) = (caller(&req)?, req.input);
    door.check_acl(account, input.acl.is_some(), input.access_control_policy)?;
    door.find_bucket(account, &input.bucket).await?;
    Ok(S3Response::new(PutBucketAclOutput::default()))
}

/// Only what holds anyway.
pub(crate) async fn put_object_acl(
    door: &Door,
    req: S3Request<PutObjectAclInput>,
) -> S3Result<S3Response<PutObjectAclOutput>> {
    let (account, input) = (caller(&req)?, req.input);
    door.check_acl(account, input.acl.is_some(), input.access_control_policy)?;
    let (place, version) = ((&*input.bucket, &*input.key), input.version_id.as_deref());
    door.find_object(account, place, version).await?;
    Ok(S3Response::new(PutObjectAclOutput::default()))
}

pub(crate) async fn ownership(
    door: &Door,
    req: S3Request<GetBucketOwnershipControlsInput>,
) -> S3Result<S3Response<GetBucketOwnershipControlsOutput>> {
    door.find_bucket(caller(&req)?, &req.input.bucket).await?;
    let object_ownership = ObjectOwnership::from_static(ObjectOwnership::BUCKET_OWNER_ENFORCED);
    Ok(S3Response::new(GetBucketOwnershipControlsOutput {
        ownership_controls: Some(OwnershipControls {
            rules: vec![OwnershipControlsRule { object_ownership }],
        }),
    }))
}

pub(crate) async fn payment(
    door: &Door,
    req: S3Request<GetBucketRequestPaymentInput>,
) -> S3Result<S3Response<GetBucketRequestPaymentOutput>> {
    door.find_bucket(caller(&req)?, &req.input.bucket).await?;
    Ok(S3Response::new(GetBucketRequestPaymentOutput {
        payer: Some(Payer::from_static(Payer::BUCKET_OWNER)),
    }))
}
