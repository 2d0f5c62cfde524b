//! CreateMultipartUpload.

use http::HeaderMap;
use objects::{ChecksumAlgorithm, ChecksumKind, CreateUpload};
use s3s::dto::{CreateMultipartUploadInput, CreateMultipartUploadOutput};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::algorithms::{by_name, kind_to_dto, name_of, to_dto};
use crate::door::{Door, caller};
use crate::errors::from_objects;
use crate::names::for_xml;
use crate::put::take_metadata;
use crate::query_headers::in_query;

pub(crate) async fn create_upload(
    door: &Door,
    mut req: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let hoisted = in_query("CreateMultipartUpload", &req.uri, &req.headers)?;
    let mut headers = req.headers.clone();
    headers.extend(hoisted.clone());
    let checksum = checksum(&headers)?;
    let (bucket, key) = (req.input.bucket.clone(), req.input.key.clone());
    let request = CreateUpload {
        account: caller(&req)?,
        bucket: bucket.clone(),
        key: key.clone(),
        metadata: take_metadata!(req.input, &hoisted),
        checksum,
    };
    let upload = door.objects.create_upload(request).await;
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(bucket),
        key: Some(for_xml(&key).into_owned()),
        upload_id: Some(upload.map_err(from_objects)?),
        checksum_algorithm: checksum.map(|(algorithm, _)| to_dto(algorithm)),
        checksum_type: checksum.map(|(_, kind)| kind_to_dto(kind)),
        ..Default::default()
    }))
}

/// What the parts and the object are to have, if the client says so.
fn checksum(headers: &HeaderMap) -> S3Result<Option<(ChecksumAlgorithm, ChecksumKind)>> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let kind = match text("x-amz-checksum-type") {
        None => None,
        Some("FULL_OBJECT") => Some(ChecksumKind::FullObject),
        Some("COMPOSITE") => Some(ChecksumKind::Composite),
        Some(_) => {
            let message = "Value for x-amz-checksum-type header is invalid.";
            return Err(s3_error!(InvalidRequest, "{message}"));
        }
    };
    let Some(name) = text("x-amz-checksum-algorithm") else {
        return match kind {
            None => Ok(None),
            Some(_) => Err(s3_error!(
                InvalidRequest,
                "The x-amz-checksum-type header can only be used with the \
                 x-amz-checksum-algorithm header."
            )),
        };
    };
    let Some(algorithm) = by_name(name) else {
        return Err(s3_error!(
            InvalidRequest,
            "Checksum algorithm provided is unsupported. Please try again with any of the valid \
             types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]"
        ));
    };
    let (default, other) = kinds(algorithm);
    let kind = kind.unwrap_or(default);
    if kind != default && Some(kind) != other {
        let kind = kind_to_dto(kind);
        return Err(s3_error!(
            InvalidRequest,
            "The {} checksum type cannot be used with the {} checksum algorithm.",
            kind.as_str(),
            name_of(algorithm).to_lowercase()
        ));
    }
    Ok(Some((algorithm, kind)))
}

/// What a multipart object's checksum is of: by default, and what else is possible.
fn kinds(algorithm: ChecksumAlgorithm) -> (ChecksumKind, Option<ChecksumKind>) {
    use ChecksumKind::{Composite, FullObject};
    match algorithm {
        ChecksumAlgorithm::Crc64Nvme => (FullObject, None),
        ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => (Composite, Some(FullObject)),
        _ => (Composite, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_and_types_that_go_together() {
        let parse = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().copied();
            let headers =
                pairs.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            checksum(&headers.collect()).map_err(|error| error.code().as_str().to_owned())
        };
        let (name, kind) = ("x-amz-checksum-algorithm", "x-amz-checksum-type");
        let ok = |algorithm, kind| Ok(Some((algorithm, kind)));
        assert_eq!(parse(&[]), Ok(None));
        let crc32 = ChecksumAlgorithm::Crc32;
        assert_eq!(
            parse(&[(name, "crc32")]),
            ok(crc32, ChecksumKind::Composite)
        );
        assert_eq!(
            parse(&[(name, "CRC32"), (kind, "FULL_OBJECT")]),
            ok(crc32, ChecksumKind::FullObject)
        );
        assert_eq!(
            parse(&[(name, "CRC64NVME")]),
            ok(ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject)
        );
        for bad in [
            &[(name, "CRC64NVME"), (kind, "COMPOSITE")][..],
            &[(name, "SHA256"), (kind, "FULL_OBJECT")],
            &[(kind, "COMPOSITE")],
            &[(name, "CRC32"), (kind, "full")],
            &[(name, "CRC31")],
        ] {
            assert_eq!(parse(bad), Err("InvalidRequest".to_owned()), "{bad:?}");
        }
    }
}
