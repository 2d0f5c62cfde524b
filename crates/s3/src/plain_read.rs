//! The short way of a plain read: a signed GET or HEAD of an object that asks for nothing
//! unusual is recognised, verified and answered here, at a fraction of what a request costs
//! that may be anything.
//!
//! What must always hold:
//! - This way is never more permissive. It accepts what it recognises down to the last byte and
//!   verifies itself; whatever else, and whatever fails, goes the long way, which has all the
//!   rules and words all the errors. So nothing is refused here.
//! - Both ways answer alike: they share the look-up, the conditions, the headers and the body.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{AUTHORIZATION, HOST, RANGE};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use objects::{AccountId, Grant, Objects};
use s3s::{Body, dto};
use s3s_sigv4::AmzDate;
use sha2::{Digest, Sha256};

use crate::budget::Reservation;
use crate::front::Budgets;
use crate::get::{open, window_bytes};
use crate::limits::{CLOCK_SKEW_SECONDS_MAX, PRESIGNED_SECONDS_MAX};
use crate::names::percent_decode;
use crate::read_head::{self, Overrides};
use crate::signing_keys::SigningKeys;
use crate::view::ReadInput;

/// The only algorithm.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// How every scope ends.
const SCOPE_END: &str = "aws4_request";

/// What a presigned request, and many another, says of its body.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// The SHA-256 of no bytes.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Most parameters in the query: those of a presigned URL, and `x-id`, which SDKs add.
const PARAMETERS_MAX: usize = 7;

/// A read that was recognised, and not verified yet.
#[derive(Debug)]
pub(crate) struct PlainRead<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) key: Cow<'a, str>,
    pub(crate) range: Option<dto::Range>,
    pub(crate) with_checksum: bool,
    request: &'a Parts,
    query: Query<'a>,
    claim: Claim<'a>,
}

/// What a signature says of itself.
#[derive(Debug)]
struct Claim<'a> {
    access_key: &'a str,
    /// `20260131/us-east-1/s3/aws4_request`
    day: &'a str,
    region: &'a str,
    /// `20260131T235959Z`
    date: &'a str,
    /// Seconds for which a presigned URL counts; `None` of a signature in the header.
    expires: Option<u32>,
    /// As they were signed: `host;x-amz-date`.
    signed_headers: Cow<'a, str>,
    /// The last line of what was signed.
    payload: &'a str,
    signature: [u8; 32],
}

/// Who was found to have signed.
pub(crate) struct Verified<'a> {
    pub(crate) grant: Grant,
    pub(crate) access_key: &'a str,
}

impl<'a> PlainRead<'a> {
    /// Recognises a request without a body. `bucket`: what its host names.
    pub(crate) fn of(request: &'a Parts, bucket: Option<&'a str>) -> Option<PlainRead<'a>> {
        if request.method != Method::GET && request.method != Method::HEAD {
            return None;
        }
        let path = request.uri.path();
        let path = path
            .strip_prefix('/')
            .filter(|_| is_canonical(path, true))?;
        let (bucket, key) = match bucket {
            Some(bucket) => (bucket, path),
            None => path
                .split_once('/')
                .filter(|(bucket, _)| !bucket.is_empty())?,
        };
        let key = percent_decode(key).filter(|key| !key.is_empty())?;
        let headers = Headers::of(&request.headers)?;
        let query = Query::of(request.uri.query().unwrap_or(""))?;
        let claim = match headers.authorization {
            Some(authorization) => Claim::in_header(authorization, &headers, &query)?,
            None => Claim::in_query(&headers, &query)?,
        };
        let range = match headers.range {
            Some(range) => Some(dto::Range::parse(range).ok()?),
            None => None,
        };
        Some(PlainRead {
            bucket,
            key,
            range,
            with_checksum: headers.with_checksum,
            request,
            query,
            claim,
        })
    }

    /// Finds out who signed it; `None` if that cannot be told here.
    /// `grant` says, as of now, whom an access key signs for.
    pub(crate) fn verify(
        &self,
        grant: impl FnOnce(&str) -> Option<Grant>,
        signing: &SigningKeys,
    ) -> Option<Verified<'a>> {
        let claim = &self.claim;
        if claim.region != signing.region() || !claim.counts_at(SystemTime::now()) {
            return None;
        }
        let digest = self.canonical_digest()?;
        let grant = grant(claim.access_key)?;
        let day = claim.day.as_bytes().try_into().ok()?;
        let digest = std::str::from_utf8(&digest).ok()?;
        let text = [
            ALGORITHM,
            "\n",
            claim.date,
            "\n",
            claim.day,
            "/",
            claim.region,
            "/s3/",
            SCOPE_END,
            "\n",
            digest,
        ];
        let (access_key, signature) = (claim.access_key, &claim.signature);
        signing
            .verify(access_key, &grant.secret, day, &text, signature)
            .then_some(Verified { grant, access_key })
    }

    /// What the operation is called.
    pub(crate) fn operation(&self) -> &'static str {
        match self.request.method == Method::HEAD {
            true => "HeadObject",
            false => "GetObject",
        }
    }

    /// Carries it out for `caller`; `None` if there is anything to say but the object. With the
    /// memory that the answer's body needs.
    pub(crate) async fn answer(
        &self,
        caller: &AccountId,
        objects: &Objects,
        budgets: &Budgets,
    ) -> Option<(Response<Body>, Reservation)> {
        let handle = objects.get(caller, self.bucket, &self.key).await.ok()?;
        let wanted = ReadInput {
            range: self.range,
            ..Default::default()
        };
        let view = wanted.view(&handle).await.ok()?;
        let (info, overrides) = (handle.info(), Overrides::default());
        let headers = read_head::headers(info, &view, &overrides, self.with_checksum).ok()?;
        let is_get = self.request.method == Method::GET;
        let window = if is_get { window_bytes(&view) } else { 0 };
        let reserved = budgets.for_read(window).try_reserve(window)?;
        let body = match is_get {
            true => open(handle.read(view.range.clone()), view.len())
                .await
                .ok()?
                .into(),
            false => Body::empty(),
        };
        let mut response = Response::new(body);
        *response.headers_mut() = headers;
        if view.content_range.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Some((response, reserved))
    }

    /// The hash of the canonical request. It is the request itself, because everything in it was
    /// found to be written canonically.
    fn canonical_digest(&self) -> Option<[u8; 64]> {
        let mut hash = Sha256::new();
        let mut add = |text: &str| hash.update(text.as_bytes());
        add(self.request.method.as_str());
        add("\n");
        add(self.request.uri.path());
        add("\n");
        self.query.canonical(&mut add);
        add("\n");
        let mut before = "";
        for name in self.claim.signed_headers.split(';') {
            // In order, none twice, in small letters.
            if name <= before || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return None;
            }
            before = name;
            add(name);
            add(":");
            add(plain_value(&self.request.headers, name)?);
            add("\n");
        }
        add("\n");
        add(&self.claim.signed_headers);
        add("\n");
        add(self.claim.payload);
        Some(to_hex(&hash.finalize().into()))
    }
}

/// The one value of a header, if it is written as it is signed.
fn plain_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).into_iter();
    let value = values.next()?.to_str().ok()?;
    let plain = !value.starts_with(' ')
        && !value.ends_with(' ')
        && !value.contains("  ")
        && !value.contains('\t');
    (plain && values.next().is_none()).then_some(value)
}

/// The headers that matter to a read.
#[derive(Debug, Default)]
struct Headers<'a> {
    authorization: Option<&'a str>,
    date: Option<&'a str>,
    payload: Option<&'a str>,
    range: Option<&'a str>,
    host: Option<&'a str>,
    with_checksum: bool,
}

impl<'a> Headers<'a> {
    /// `None` if there is one that asks for more than this way can do, or one of them twice.
    fn of(headers: &'a HeaderMap) -> Option<Headers<'a>> {
        let mut found = Headers::default();
        for (name, value) in headers {
            let place = match name {
                &AUTHORIZATION => &mut found.authorization,
                &HOST => &mut found.host,
                &RANGE => &mut found.range,
                name => match name.as_str() {
                    "x-amz-date" => &mut found.date,
                    "x-amz-content-sha256" => &mut found.payload,
                    "x-amz-checksum-mode" if value == "ENABLED" && !found.with_checksum => {
                        found.with_checksum = true;
                        continue;
                    }
                    name if asks_for_more(name) => return None,
                    _ => continue,
                },
            };
            if place.replace(value.to_str().ok()?).is_some() {
                return None;
            }
        }
        Some(found)
    }
}

/// Whether a header may change what a read means, or announces a body. All others are for
/// proxies and for people.
fn asks_for_more(name: &str) -> bool {
    const BEGINNINGS: [&str; 4] = ["x-amz-", "if-", "content-", "transfer-"];
    let begins = |start: &&str| name.starts_with(*start);
    BEGINNINGS.iter().any(begins) || matches!(name, "expect" | "trailer" | "upgrade" | "te")
}

/// The query of a plain read.
#[derive(Debug, Default)]
struct Query<'a> {
    /// `name=value` as they were sent, sorted but for the signature, which is not among them.
    signed: [&'a str; PARAMETERS_MAX],
    count: usize,
    algorithm: Option<&'a str>,
    credential: Option<&'a str>,
    date: Option<&'a str>,
    expires: Option<&'a str>,
    signed_headers: Option<&'a str>,
    signature: Option<&'a str>,
}

impl<'a> Query<'a> {
    /// `None` if there is a parameter that is none of a signature's, one twice, or one that is
    /// not written canonically.
    fn of(query: &'a str) -> Option<Query<'a>> {
        let mut found = Query::default();
        if query.is_empty() {
            return Some(found);
        }
        let mut id = None;
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=')?;
            let place = match name {
                "X-Amz-Algorithm" => &mut found.algorithm,
                "X-Amz-Credential" => &mut found.credential,
                "X-Amz-Date" => &mut found.date,
                "X-Amz-Expires" => &mut found.expires,
                "X-Amz-SignedHeaders" => &mut found.signed_headers,
                "X-Amz-Signature" => &mut found.signature,
                // What SDKs call the operation, which its method says.
                "x-id" => &mut id,
                _ => return None,
            };
            if place.replace(value).is_some() {
                return None;
            }
            // Escaped, it may name another operation to one that decodes it.
            if name == "x-id" && !value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return None;
            }
            // It is not among what is signed, and has no letter that could be escaped.
            if name != "X-Amz-Signature" {
                if !is_canonical(value, false) {
                    return None;
                }
                *found.signed.get_mut(found.count)? = pair;
                found.count += 1;
            }
        }
        // No name begins with another: so the pairs sort like their names.
        found.signed.get_mut(..found.count)?.sort_unstable();
        Some(found)
    }

    /// Whether it says anything of a signature.
    fn is_presigned(&self) -> bool {
        let parts = [
            self.algorithm,
            self.credential,
            self.date,
            self.expires,
            self.signed_headers,
            self.signature,
        ];
        parts.iter().any(Option::is_some)
    }

    fn canonical(&self, add: &mut impl FnMut(&str)) {
        for (at, pair) in self.signed.iter().take(self.count).enumerate() {
            if at > 0 {
                add("&");
            }
            add(pair);
        }
    }
}

impl<'a> Claim<'a> {
    /// `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`, as SDKs write it.
    fn in_header(
        authorization: &'a str,
        headers: &Headers<'a>,
        query: &Query<'a>,
    ) -> Option<Claim<'a>> {
        let rest = authorization.strip_prefix(ALGORITHM)?;
        let mut fields = rest.strip_prefix(' ')?.split(',').map(str::trim_start);
        let credential = fields.next()?.strip_prefix("Credential=")?;
        let signed_headers = fields.next()?.strip_prefix("SignedHeaders=")?;
        let signature = fields.next()?.strip_prefix("Signature=")?;
        if fields.next().is_some() || query.is_presigned() {
            return None;
        }
        let (access_key, scope) = credential.split_once('/')?;
        let payload = headers.payload?;
        if payload != UNSIGNED && payload != EMPTY_SHA256 {
            return None;
        }
        let claim = Claim::of_scope(access_key, scope.split('/'), Cow::Borrowed(signed_headers))?;
        let claim = Claim {
            date: headers.date?,
            payload,
            signature: from_hex(signature)?,
            ..claim
        };
        claim.covers(headers).then_some(claim)
    }

    /// The parameters of a presigned URL.
    fn in_query(headers: &Headers<'a>, query: &Query<'a>) -> Option<Claim<'a>> {
        // What they could mean beside the query's is for the long way.
        if headers.date.is_some() || headers.payload.is_some() || query.algorithm? != ALGORITHM {
            return None;
        }
        let (access_key, scope) = query.credential?.split_once("%2F")?;
        let signed_headers = percent_decode(query.signed_headers?)?;
        let expires = query.expires?;
        // Written canonically, it has no sign before its digits.
        let expires = expires.parse().ok()?;
        if expires > PRESIGNED_SECONDS_MAX {
            return None;
        }
        let claim = Claim::of_scope(access_key, scope.split("%2F"), signed_headers)?;
        let claim = Claim {
            date: query.date?,
            expires: Some(expires),
            payload: UNSIGNED,
            signature: from_hex(query.signature?)?,
            ..claim
        };
        claim.covers(headers).then_some(claim)
    }

    /// A claim of which the rest is still to be said.
    fn of_scope(
        access_key: &'a str,
        mut scope: impl Iterator<Item = &'a str>,
        signed_headers: Cow<'a, str>,
    ) -> Option<Claim<'a>> {
        let (day, region) = (scope.next()?, scope.next()?);
        let rest = (scope.next(), scope.next(), scope.next());
        let plain = !access_key.is_empty() && access_key.bytes().all(|b| b.is_ascii_alphanumeric());
        (plain && rest == (Some("s3"), Some(SCOPE_END), None)).then_some(Claim {
            access_key,
            day,
            region,
            date: "",
            expires: None,
            signed_headers,
            payload: "",
            signature: [0; 32],
        })
    }

    /// Whether every header that has to be signed is.
    fn covers(&self, headers: &Headers<'_>) -> bool {
        let is_signed = |wanted: &str| self.signed_headers.split(';').any(|name| name == wanted);
        headers.host.is_some()
            && is_signed("host")
            && (headers.date.is_none() || is_signed("x-amz-date"))
            && (!headers.with_checksum || is_signed("x-amz-checksum-mode"))
    }

    /// Whether its time is beyond doubt: what is on the verge is for the long way to judge.
    fn counts_at(&self, now: SystemTime) -> bool {
        let time = AmzDate::parse(self.date)
            .ok()
            .filter(|_| self.date.starts_with(self.day));
        let time = time
            .and_then(|date| date.to_time())
            .map(|time| time.as_second());
        let now = now.duration_since(UNIX_EPOCH).ok();
        let now = now.and_then(|now| i64::try_from(now.as_secs()).ok());
        let (Some(time), Some(now)) = (time, now) else {
            return false;
        };
        let skew = i64::from(CLOCK_SKEW_SECONDS_MAX);
        let life = self.expires.map_or(skew, i64::from);
        let age = now.saturating_sub(time);
        (-skew..life).contains(&age) && age != -skew
    }
}

/// The bytes that are never escaped.
const UNRESERVED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let at = byte as u8;
        table[byte] = at.is_ascii_alphanumeric() || matches!(at, b'-' | b'_' | b'.' | b'~');
        byte += 1;
    }
    table
};

/// Whether text is percent-encoded as signatures want it: unreserved characters as they are, all
/// others as `%XX` in capitals. Only a path has slashes.
fn is_canonical(text: &str, is_path: bool) -> bool {
    let unreserved = |byte: u8| UNRESERVED[usize::from(byte)];
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'%' => match (bytes.next().and_then(digit), bytes.next().and_then(digit)) {
                (Some(high), Some(low)) => {
                    let escaped = high << 4 | low;
                    !(unreserved(escaped) || is_path && escaped == b'/')
                }
                _ => false,
            },
            b'/' => is_path,
            byte => unreserved(byte),
        };
        if !fits {
            return false;
        }
    }
    true
}

/// A hexadecimal digit; letters are capitals.
fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn to_hex(bytes: &[u8; 32]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: u8| [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]);
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&digits(*byte));
    }
    text
}

/// A signature: 64 hexadecimal digits in small letters.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let nibble = |byte: u8| match byte {
        b'a'..=b'f' => Some(byte - b'a' + 10),
        byte => digit(byte).filter(|_| byte.is_ascii_digit()),
    };
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = *pair else { return None };
        *byte = nibble(high)? << 4 | nibble(low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
