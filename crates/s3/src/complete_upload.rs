//! CompleteMultipartUpload.

use objects::{
    Checksum, ChecksumAlgorithm, ChecksumKind, ChosenPart, CompleteRequest, ETag, Error,
    PartSummary, PartSums, PutOutcome, UploadInfo, UploadRef,
};
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{self, CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::algorithms::{
    Combined, DEFAULT_ALGORITHM, by_header, header_of, kind_to_dto, name_of, only_one, put_sums,
    shown, sums_of,
};
use crate::checksums::Declared;
use crate::document::parts_bytes;
use crate::door::{Door, caller, context};
use crate::errors::from_objects;
use crate::limits::COMPLETION_BYTES;
use crate::names::for_xml;
use crate::put::{condition, durable};

pub(crate) async fn complete_upload(
    door: &Door,
    req: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let context = context(&req)?;
    let Some(digests) = context.take_body_digests() else {
        return Err(malformed("A completed upload names 1 to 10000 parts."));
    };
    Declared::content_md5(&req.headers)?.verify(&digests, None)?;
    let account = caller(&req)?;
    let input = req.input;
    let upload = UploadRef {
        account,
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        upload: input.upload_id.clone(),
    };
    let size = match input.mpu_object_size.map(u64::try_from) {
        None => None,
        Some(Ok(size)) => Some(size),
        Some(Err(_)) => {
            let message = "Value for x-amz-mp-object-size header is invalid.";
            return Err(s3_error!(InvalidRequest, "{message}"));
        }
    };
    let parts = chosen(input.multipart_upload)?;
    // What is read of the parts, and the table of them, was reserved with the document.
    context.shrink_document(parts_bytes(parts.len()) + COMPLETION_BYTES);

    let declared = declared_sum(&req.headers)?;
    let info = door.objects.upload(&upload).await;
    let mut sums = match info {
        Ok(info) => {
            check_type(input.checksum_type.as_ref(), &info)?;
            Sums::new(&info, declared)?
        }
        // It may have been completed already.
        Err(Error::NoSuchUpload { .. }) => Sums::none(),
        Err(error) => return Err(from_objects(error)),
    };
    let request = CompleteRequest {
        upload,
        condition: condition(input.if_match.as_ref(), input.if_none_match.as_ref())?,
        parts,
        size,
    };
    let outcome = door
        .objects
        .complete_upload(request, &mut sums)
        .await
        .map_err(from_objects)?;
    let location = format!("/{}/{}", input.bucket, crate::names::url_encode(&input.key));
    Ok(answer(outcome, input.bucket, input.key, location))
}

fn malformed(message: &'static str) -> s3s::S3Error {
    s3_error!(MalformedXML, "{message}")
}

/// The parts that the document names.
fn chosen(document: Option<dto::CompletedMultipartUpload>) -> S3Result<Vec<ChosenPart>> {
    let parts = document.and_then(|document| document.parts);
    let parts = parts.unwrap_or_default();
    if parts.is_empty() {
        return Err(malformed("A completed upload names 1 to 10000 parts."));
    }
    let mut chosen = Vec::with_capacity(parts.len());
    for part in parts {
        chosen.push(chosen_part(part)?);
    }
    Ok(chosen)
}

fn chosen_part(part: CompletedPart) -> S3Result<ChosenPart> {
    let mut sums = dto::Checksum::default();
    let (number, etag) = (part.part_number, part.e_tag.clone());
    put_sums!(part => sums);
    let (Some(number), Some(etag)) = (number, etag) else {
        return Err(malformed("Each part has a PartNumber and an ETag."));
    };
    let limit = objects::limits::PARTS_MAX;
    let number = u16::try_from(number)
        .ok()
        .filter(|number| (1..=limit).contains(&usize::from(*number)));
    let Some(number) = number else {
        let message = "Part number must be an integer between 1 and 10000, inclusive";
        return Err(s3_error!(InvalidArgument, "{message}"));
    };
    let Ok(checksum) = only_one(&sums) else {
        return Err(malformed("A part has one checksum, in base64."));
    };
    Ok(ChosenPart {
        number,
        etag: ETag::new(etag.value().trim_matches('"')),
        checksum,
    })
}

/// The checksum of the whole object that the client sends along, as it is written.
fn declared_sum(headers: &http::HeaderMap) -> S3Result<Option<(ChecksumAlgorithm, String)>> {
    let mut found = None;
    for (name, value) in headers {
        let Some(algorithm) = by_header(name.as_str()) else {
            continue;
        };
        let value = value.to_str().unwrap_or("").trim().to_owned();
        if found.replace((algorithm, value)).is_some() {
            let message = "Expecting a single x-amz-checksum- header. \
                           Multiple checksum Types are not allowed.";
            return Err(s3_error!(InvalidRequest, "{message}"));
        }
    }
    Ok(found)
}

fn check_type(sent: Option<&dto::ChecksumType>, upload: &UploadInfo) -> S3Result<()> {
    let kind = upload
        .checksum
        .map_or(ChecksumKind::FullObject, |(_, kind)| kind);
    match sent {
        Some(sent) if sent.as_str() != kind_to_dto(kind).as_str() => Err(s3_error!(
            InvalidRequest,
            "The upload was created using the {} checksum mode. The complete request must use the \
             same checksum mode.",
            kind_to_dto(kind).as_str()
        )),
        _ => Ok(()),
    }
}

/// Makes the object's tag and checksum of those of its parts.
struct Sums {
    md5: Md5,
    combined: Option<Combined>,
    declared: Option<(ChecksumAlgorithm, String)>,
    parts: u16,
}

impl Sums {
    fn new(upload: &UploadInfo, declared: Option<(ChecksumAlgorithm, String)>) -> S3Result<Sums> {
        let default = (DEFAULT_ALGORITHM, ChecksumKind::FullObject);
        let (algorithm, kind) = upload.checksum.unwrap_or(default);
        if let Some((sent, _)) = &declared
            && *sent != algorithm
        {
            return Err(s3_error!(
                InvalidRequest,
                "{} came with the request, but the upload was begun with {}.",
                header_of(*sent),
                name_of(algorithm)
            ));
        }
        Ok(Sums {
            md5: Md5::new(),
            combined: Combined::new(algorithm, kind),
            declared,
            parts: 0,
        })
    }

    /// For an upload that is not there.
    fn none() -> Sums {
        Sums {
            md5: Md5::new(),
            combined: None,
            declared: None,
            parts: 0,
        }
    }
}

impl PartSums for Sums {
    fn add(&mut self, part: &PartSummary) -> objects::Result<()> {
        let digest = part.etag.md5().ok_or_else(|| {
            Error::Internal(format!("the ETag of part {} is no MD5", part.number))
        })?;
        self.md5.update(&digest);
        self.parts += 1;
        match (&mut self.combined, &part.checksum) {
            (Some(combined), Some(checksum)) => combined.add(checksum, part.size),
            _ => self.combined = None,
        }
        Ok(())
    }

    fn finish(&mut self) -> objects::Result<(ETag, Option<Checksum>)> {
        let digest = std::mem::replace(&mut self.md5, Md5::new()).finalize();
        let etag = ETag::new(format!("{}-{}", ETag::from_md5(digest), self.parts));
        let checksum = self.combined.take().map(Combined::finish);
        if let Some((algorithm, sent)) = &self.declared {
            let is = checksum
                .as_ref()
                .map(|checksum| shown(checksum, Some(self.parts)))
                .unwrap_or_default();
            // Some clients leave the number of parts away.
            let bare = is.split('-').next().unwrap_or("");
            if *sent != is && *sent != bare {
                let algorithm = name_of(*algorithm);
                return Err(Error::ChecksumMismatch { algorithm, is });
            }
        }
        Ok((etag, checksum))
    }
}

fn answer(
    outcome: PutOutcome,
    bucket: String,
    key: String,
    location: String,
) -> S3Response<CompleteMultipartUploadOutput> {
    // Of the object, which an earlier request may have made of other parts than this one names.
    let parts = outcome.etag.as_str().rsplit_once('-');
    let parts = parts.and_then(|(_, count)| count.parse().ok());
    let mut sums = sums_of(outcome.checksum.as_ref(), parts);
    let mut output = CompleteMultipartUploadOutput {
        bucket: Some(bucket),
        key: Some(for_xml(&key).into_owned()),
        location: Some(location),
        e_tag: Some(dto::ETag::Strong(outcome.etag.as_str().to_owned())),
        checksum_type: sums.checksum_type.take(),
        ..Default::default()
    };
    put_sums!(sums => output);
    S3Response::with_headers(output, durable(&outcome.durable))
}
