//! DeleteObjects.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use objects::{AccountId, DeleteCondition, ETag};
use s3s::dto::{
    self, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, Error, ObjectIdentifier,
};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::checksums::Declared;
use crate::door::{Door, caller, context};
use crate::errors::from_objects;
use crate::limits::{ANSWER_ENTRY_BYTES, PAGE_ENTRIES_MAX};
use crate::names::{escaped_len, fits_xml};
use crate::view::check_version;

/// Deletes that are on their way at once, so that they share flushes.
const CONCURRENT: usize = 32;

pub(crate) async fn delete_objects(
    door: &Door,
    req: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let declared = Declared::from_headers(&req.headers)?;
    let (context, caller) = (context(&req)?, caller(&req)?);
    let Some(digests) = context.take_body_digests() else {
        return Err(s3_error!(IncompleteBody));
    };
    declared.verify(&digests, req.trailing_headers.as_ref())?;
    let delete = req.input.delete;
    check(&delete.objects)?;
    context.shrink_document(parsed_bytes(&delete.objects));
    // Before anything is deleted: an answer that cannot be given would leave the client in doubt.
    let answer = answer_bytes(&delete.objects);
    context.hold(door.budgets.reserve_document(answer).await?);
    // Fails as a whole, not key by key, when the bucket is not there.
    let bucket = req.input.bucket;
    door.objects
        .head_bucket(&caller, &bucket)
        .await
        .map_err(from_objects)?;

    let quiet = delete.quiet.unwrap_or(false);
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    let mut objects = delete.objects.into_iter().peekable();
    while objects.peek().is_some() {
        let batch = objects.by_ref().take(CONCURRENT);
        let running: Vec<_> = batch
            .map(|object| delete_one(door, caller, &bucket, object))
            .collect();
        for result in all(running).await {
            match result {
                Ok(object) if !quiet => deleted.push(object),
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: (!deleted.is_empty()).then_some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        request_charged: None,
    }))
}

/// What the parsed document holds on to.
fn parsed_bytes(objects: &[ObjectIdentifier]) -> usize {
    let strings = |object: &ObjectIdentifier| {
        object.key.len() + object.version_id.as_ref().map_or(0, String::len)
    };
    objects
        .iter()
        .map(|object| size_of_val(object) + strings(object))
        .sum()
}

/// What the answer may need at most: its buffer doubles, so that up to three times its size is
/// there when it does.
fn answer_bytes(objects: &[ObjectIdentifier]) -> usize {
    let entry = |object: &ObjectIdentifier| {
        let version = object.version_id.as_deref().map_or(0, escaped_len);
        ANSWER_ENTRY_BYTES + escaped_len(&object.key) + version
    };
    3 * objects.iter().map(entry).sum::<usize>()
}

/// The schema's limits. Keys that XML has no place for cannot have come by XML.
fn check(objects: &[ObjectIdentifier]) -> S3Result<()> {
    if objects.is_empty() || objects.len() > PAGE_ENTRIES_MAX {
        return Err(s3_error!(
            MalformedXML,
            "A multi-delete names 1 to 1000 keys."
        ));
    }
    let well_formed = |object: &ObjectIdentifier| {
        fits_xml(&object.key) && object.version_id.as_deref().is_none_or(fits_xml)
    };
    if !objects.iter().all(well_formed) {
        return Err(s3_error!(
            MalformedXML,
            "A key contains a character that XML has no place for."
        ));
    }
    if objects
        .iter()
        .any(|object| object.size.is_some() || object.last_modified_time.is_some())
    {
        let message = "Conditions on size and time are only there for directory buckets.";
        return Err(s3_error!(NotImplemented, "{message}"));
    }
    Ok(())
}

/// A weak tag matches nothing.
fn check_tag(tag: Option<&dto::ETag>) -> S3Result<()> {
    match tag {
        Some(dto::ETag::Weak(_)) => Err(s3_error!(
            PreconditionFailed,
            "At least one of the pre-conditions you specified did not hold"
        )),
        Some(dto::ETag::Strong(_)) | None => Ok(()),
    }
}

async fn delete_one(
    door: &Door,
    caller: AccountId,
    bucket: &str,
    object: ObjectIdentifier,
) -> Result<DeletedObject, Error> {
    let condition = match &object.e_tag {
        None => DeleteCondition::None,
        Some(tag) if tag.value() == "*" => DeleteCondition::IfMatchAny,
        Some(tag) => DeleteCondition::IfMatch(ETag::new(tag.value())),
    };
    let checked = check_version(object.version_id.as_deref());
    let result = match checked.and_then(|()| check_tag(object.e_tag.as_ref())) {
        Ok(()) => {
            let deleted = door.objects.delete(&caller, bucket, &object.key, condition);
            deleted.await.map(|_| ()).map_err(from_objects)
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => Ok(DeletedObject {
            key: Some(object.key),
            version_id: object.version_id,
            ..Default::default()
        }),
        Err(error) => Err(Error {
            code: Some(error.code().as_str().to_owned()),
            key: Some(object.key),
            message: message(&error),
            version_id: object.version_id,
        }),
    }
}

/// Short: the key stands beside it, and a thousand of them are held at once.
fn message(error: &s3s::S3Error) -> Option<String> {
    match error.code() {
        s3s::S3ErrorCode::NoSuchKey => Some("The specified key does not exist.".to_owned()),
        _ => error
            .message()
            .map(|text| text.chars().take(MESSAGE_CHARS_MAX).collect()),
    }
}

/// See [`message`].
const MESSAGE_CHARS_MAX: usize = 120;

/// Runs futures side by side; their results in the same order.
async fn all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, result) in running.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(output) = future.as_mut().poll(cx)
            {
                *result = Some(output);
            }
        }
        if results.iter().all(Option::is_some) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_keep_their_order() {
        let futures: Vec<_> = (0..10_u64)
            .map(|n| async move {
                tokio::time::sleep(std::time::Duration::from_millis(10 - n)).await;
                n
            })
            .collect();
        assert_eq!(all(futures).await, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn the_schema_is_checked() {
        let object = |key: &str| ObjectIdentifier {
            key: key.to_owned(),
            ..Default::default()
        };
        let code = |objects: &[ObjectIdentifier]| {
            check(objects)
                .err()
                .map(|error| error.code().as_str().to_owned())
        };
        assert_eq!(code(&[object("a")]), None);
        assert_eq!(code(&[]), Some("MalformedXML".into()));
        assert_eq!(code(&vec![object("a"); 1_001]), Some("MalformedXML".into()));
        assert_eq!(code(&[object("a\u{1}")]), Some("MalformedXML".into()));
    }
}
