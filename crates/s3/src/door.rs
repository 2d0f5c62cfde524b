//! Where `s3s` calls in: each operation that is there, handed to the file of its verb. What is
//! not listed here answers `NotImplemented`.

use std::sync::Arc;

use objects::{AccountId, Objects};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use crate::context::RequestContext;
use crate::front::Budgets;
use crate::{
    attributes, buckets, complete_upload, copy, create_upload, delete, delete_many, get, head,
    list, list_versions, post_object, put, settings, upload_part, uploads,
};

/// What every operation needs.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) objects: Objects,
    pub(crate) region: String,
    pub(crate) budgets: Budgets,
}

impl Door {
    /// The owner as S3 shows it.
    pub(crate) fn owner(&self, account: AccountId) -> Owner {
        Owner {
            display_name: None,
            id: Some(account.to_string()),
        }
    }
}

/// The request's context, which the front put there.
pub(crate) fn context<T>(request: &S3Request<T>) -> S3Result<Arc<RequestContext>> {
    let context = request.extensions.get::<Arc<RequestContext>>().cloned();
    context.ok_or_else(|| s3_error!(InternalError, "the request has no context"))
}

/// Whose account signed the request; the gate put that there.
pub(crate) fn caller<T>(request: &S3Request<T>) -> S3Result<AccountId> {
    let caller = context(request)?.caller();
    caller.ok_or_else(|| s3_error!(InternalError, "the request has no caller"))
}

/// Hands each operation, with its input and output, to its function.
macro_rules! operations {
    ($($operation:ident: $input:ty => $output:ty, $function:path;)*) => {
        #[async_trait::async_trait]
        impl S3 for Door {$(
            async fn $operation(
                &self,
                req: S3Request<$input>,
            ) -> S3Result<S3Response<$output>> {
                $function(self, req).await
            }
        )*}
    };
}

operations! {
    create_bucket: CreateBucketInput => CreateBucketOutput, buckets::create;
    head_bucket: HeadBucketInput => HeadBucketOutput, buckets::head;
    list_buckets: ListBucketsInput => ListBucketsOutput, buckets::list;
    delete_bucket: DeleteBucketInput => DeleteBucketOutput, buckets::delete;
    get_bucket_location: GetBucketLocationInput => GetBucketLocationOutput, buckets::location;
    put_object: PutObjectInput => PutObjectOutput, put::put_object;
    get_object: GetObjectInput => GetObjectOutput, get::get_object;
    head_object: HeadObjectInput => HeadObjectOutput, head::head_object;
    delete_object: DeleteObjectInput => DeleteObjectOutput, delete::delete_object;
    delete_objects: DeleteObjectsInput => DeleteObjectsOutput, delete_many::delete_objects;
    post_object: PostObjectInput => PostObjectOutput, post_object::post_object;
    copy_object: CopyObjectInput => CopyObjectOutput, copy::copy_object;
    get_object_attributes: GetObjectAttributesInput => GetObjectAttributesOutput, attributes::get_object_attributes;
    create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput, create_upload::create_upload;
    upload_part: UploadPartInput => UploadPartOutput, upload_part::upload_part;
    upload_part_copy: UploadPartCopyInput => UploadPartCopyOutput, copy::upload_part_copy;
    complete_multipart_upload: CompleteMultipartUploadInput => CompleteMultipartUploadOutput, complete_upload::complete_upload;
    abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput, uploads::abort;
    list_parts: ListPartsInput => ListPartsOutput, uploads::list_parts;
    list_multipart_uploads: ListMultipartUploadsInput => ListMultipartUploadsOutput, uploads::list_uploads;
    list_objects: ListObjectsInput => ListObjectsOutput, list::list_objects;
    list_objects_v2: ListObjectsV2Input => ListObjectsV2Output, list::list_objects_v2;
    list_object_versions: ListObjectVersionsInput => ListObjectVersionsOutput, list_versions::list_object_versions;

    get_bucket_accelerate_configuration: GetBucketAccelerateConfigurationInput => GetBucketAccelerateConfigurationOutput, settings::accelerate;
    get_bucket_acl: GetBucketAclInput => GetBucketAclOutput, settings::acl;
    get_bucket_logging: GetBucketLoggingInput => GetBucketLoggingOutput, settings::logging;
    get_bucket_notification_configuration: GetBucketNotificationConfigurationInput => GetBucketNotificationConfigurationOutput, settings::notification;
    get_bucket_ownership_controls: GetBucketOwnershipControlsInput => GetBucketOwnershipControlsOutput, settings::ownership;
    get_bucket_request_payment: GetBucketRequestPaymentInput => GetBucketRequestPaymentOutput, settings::payment;
    get_bucket_versioning: GetBucketVersioningInput => GetBucketVersioningOutput, settings::versioning;
    get_object_acl: GetObjectAclInput => GetObjectAclOutput, settings::object_acl;
    get_object_tagging: GetObjectTaggingInput => GetObjectTaggingOutput, settings::object_tagging;
    put_bucket_acl: PutBucketAclInput => PutBucketAclOutput, settings::put_acl;
    put_object_acl: PutObjectAclInput => PutObjectAclOutput, settings::put_object_acl;
    delete_bucket_cors: DeleteBucketCorsInput => DeleteBucketCorsOutput, settings::delete_cors;
    delete_bucket_encryption: DeleteBucketEncryptionInput => DeleteBucketEncryptionOutput, settings::delete_encryption;
    delete_bucket_lifecycle: DeleteBucketLifecycleInput => DeleteBucketLifecycleOutput, settings::delete_lifecycle;
    delete_bucket_policy: DeleteBucketPolicyInput => DeleteBucketPolicyOutput, settings::delete_policy;
    delete_bucket_replication: DeleteBucketReplicationInput => DeleteBucketReplicationOutput, settings::delete_replication;
    delete_bucket_tagging: DeleteBucketTaggingInput => DeleteBucketTaggingOutput, settings::delete_tagging;
    delete_bucket_website: DeleteBucketWebsiteInput => DeleteBucketWebsiteOutput, settings::delete_website;
    delete_object_tagging: DeleteObjectTaggingInput => DeleteObjectTaggingOutput, settings::delete_object_tagging;
    delete_public_access_block: DeletePublicAccessBlockInput => DeletePublicAccessBlockOutput, settings::delete_public_access;
}
