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
mod tests {
    use super::*;
    use http::Request;
    use objects::Secret;
    use std::time::Duration;

    const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

    /// A request before it is signed.
    #[derive(Clone)]
    struct Unsigned {
        method: &'static str,
        path: &'static str,
        headers: Vec<(&'static str, &'static str)>,
        payload: &'static str,
        age: i64,
        expires: &'static str,
        service: &'static str,
        extra: Vec<(&'static str, &'static str)>,
    }

    fn get() -> Unsigned {
        Unsigned {
            method: "GET",
            path: "/bucket/a/key%20with%20spaces",
            headers: vec![("host", "127.0.0.1:9000")],
            payload: EMPTY_SHA256,
            age: 10,
            expires: "60",
            service: "s3",
            extra: vec![],
        }
    }

    impl Unsigned {
        fn date(&self) -> AmzDate {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let seconds = i64::try_from(now.as_secs()).unwrap() - self.age;
            let time = UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap());
            let mut text = Vec::new();
            let format = dto::TimestampFormat::DateTime;
            dto::Timestamp::from(time)
                .format(format, &mut text)
                .unwrap();
            let text = String::from_utf8(text).unwrap();
            let text: String = text.chars().filter(|c| !"-:".contains(*c)).collect();
            let text = format!("{}Z", text.split(['.', 'Z']).next().unwrap());
            AmzDate::parse(&text).unwrap()
        }

        fn scope(&self, date: &AmzDate) -> String {
            format!("{}/us-east-1/{}/{SCOPE_END}", date.fmt_date(), self.service)
        }

        fn sign(&self, canonical: &str, date: &AmzDate) -> String {
            let (region, service) = ("us-east-1", self.service);
            let text = s3s_sigv4::create_string_to_sign(canonical, date, region, service);
            s3s_sigv4::calculate_signature(&text, SECRET, date, region, service)
        }

        fn request(&self, uri: &str, headers: &[(&str, &str)]) -> Parts {
            let mut request = Request::builder().method(self.method).uri(uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            request.body(()).unwrap().into_parts().0
        }

        fn in_header(&self) -> Parts {
            let date = self.date();
            let text = date.fmt_iso8601();
            let mut headers = self.headers.clone();
            headers.push(("x-amz-content-sha256", self.payload));
            headers.push(("x-amz-date", &text));
            headers.sort_unstable();
            let names: Vec<&str> = headers.iter().map(|header| header.0).collect();
            let payload = match self.payload {
                UNSIGNED => s3s_sigv4::Payload::Unsigned,
                sum => s3s_sigv4::Payload::SingleChunk(sum),
            };
            let path = percent_decode(self.path).unwrap_or_default();
            let canonical = s3s_sigv4::create_canonical_request(
                self.method,
                &path,
                &self.extra,
                &headers,
                payload,
            );
            let authorization = format!(
                "{ALGORITHM} Credential={KEY}/{}, SignedHeaders={}, Signature={}",
                self.scope(&date),
                names.join(";"),
                self.sign(&canonical, &date)
            );
            headers.push(("authorization", &authorization));
            let query: Vec<String> = self.extra.iter().map(|(n, v)| format!("{n}={v}")).collect();
            let uri = match query.is_empty() {
                true => self.path.to_owned(),
                false => format!("{}?{}", self.path, query.join("&")),
            };
            self.request(&uri, &headers)
        }

        fn in_query(&self) -> Parts {
            let date = self.date();
            let text = date.fmt_iso8601();
            let mut headers = self.headers.clone();
            headers.sort_unstable();
            let names: Vec<&str> = headers.iter().map(|header| header.0).collect();
            let (names, credential) = (names.join(";"), format!("{KEY}/{}", self.scope(&date)));
            let mut query = vec![
                ("X-Amz-Algorithm", ALGORITHM),
                ("X-Amz-Credential", &credential),
                ("X-Amz-Date", &text),
                ("X-Amz-Expires", self.expires),
                ("X-Amz-SignedHeaders", &names),
            ];
            query.extend(self.extra.iter().copied());
            let path = percent_decode(self.path).unwrap_or_default();
            let (method, path) = (self.method, path.as_ref());
            let canonical =
                s3s_sigv4::create_presigned_canonical_request(method, path, &query, &headers);
            let signature = self.sign(&canonical, &date);
            query.push(("X-Amz-Signature", &signature));
            let encode = |text: &str| text.replace('/', "%2F").replace(';', "%3B");
            let pairs = query
                .iter()
                .map(|(name, value)| format!("{name}={}", encode(value)));
            let uri = format!("{}?{}", self.path, pairs.collect::<Vec<_>>().join("&"));
            self.request(&uri, &headers)
        }
    }

    fn is_verified(request: &Parts) -> bool {
        let signing = SigningKeys::new("us-east-1".to_owned());
        let grant = |key: &str| {
            (key == KEY).then(|| Grant {
                account: AccountId::ROOT,
                secret: Secret::new(SECRET.to_owned()),
            })
        };
        let read = PlainRead::of(request, None);
        read.is_some_and(|read| read.verify(grant, &signing).is_some())
    }

    #[test]
    fn what_clients_sign_is_recognised_and_verified() {
        let mut plain = get();
        let cases = [
            plain.clone(),
            Unsigned {
                method: "HEAD",
                ..get()
            },
            Unsigned {
                payload: UNSIGNED,
                ..get()
            },
            Unsigned {
                extra: vec![("x-id", "GetObject")],
                ..get()
            },
            Unsigned {
                path: "/bucket/k%C3%A4se%2B~_-.",
                ..get()
            },
            Unsigned {
                headers: vec![("host", "h:1"), ("x-amz-checksum-mode", "ENABLED")],
                ..get()
            },
            Unsigned {
                headers: vec![("host", "h:1"), ("range", "bytes=1-2")],
                ..get()
            },
        ];
        for case in cases {
            assert!(
                is_verified(&case.in_header()),
                "{} {:?}",
                case.path,
                case.headers
            );
            assert!(
                is_verified(&case.in_query()),
                "{} {:?}",
                case.path,
                case.headers
            );
        }
        plain.headers.push(("x-amz-checksum-mode", "ENABLED"));
        let (request, with_key) = (plain.in_header(), plain.in_query());
        for request in [&request, &with_key] {
            let read = PlainRead::of(request, None).unwrap();
            assert_eq!((read.bucket, &*read.key), ("bucket", "a/key with spaces"));
            assert!(read.with_checksum && read.range.is_none());
        }
    }

    /// Everything that is signed, and the signature itself.
    #[test]
    fn whatever_is_changed_verifies_nothing() {
        for request in [get().in_header(), get().in_query()] {
            assert!(is_verified(&request));
            let uri = request.uri.to_string();
            let changes = [
                ("bucket/a", "bucket/b"),
                ("bucket/", "bucked/"),
                ("X-Amz-Expires=60", "X-Amz-Expires=61"),
                ("us-east-1", "us-west-1"),
                (KEY, "AKIAIOSFODNN7EXAMPLF"),
            ];
            for (from, to) in changes.iter().filter(|change| uri.contains(change.0)) {
                let mut changed = request.clone();
                changed.uri = uri.replace(from, to).parse().unwrap();
                assert!(!is_verified(&changed), "{from} to {to}");
            }
            let mut changed = request.clone();
            changed.method = Method::HEAD;
            assert!(!is_verified(&changed));
            for name in request.headers.keys() {
                let value = request.headers[name].to_str().unwrap();
                for at in 0..value.len() {
                    let mut bytes = value.as_bytes().to_vec();
                    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
                    let mut changed = request.clone();
                    changed.headers.insert(name, bytes.try_into().unwrap());
                    assert!(!is_verified(&changed), "byte {at} of {name}");
                }
            }
            let signature = uri.split("X-Amz-Signature=").nth(1).unwrap_or("");
            for at in 0..signature.len() {
                let mut bytes = signature.as_bytes().to_vec();
                bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
                let other = String::from_utf8(bytes).unwrap();
                let mut changed = request.clone();
                changed.uri = uri.replace(signature, &other).parse().unwrap();
                assert!(!is_verified(&changed), "byte {at} of the signature");
            }
        }
    }

    #[test]
    fn what_is_too_old_or_not_yet_goes_the_long_way() {
        for (age, expires, header, query) in [
            (0, "60", true, true),
            (50, "60", true, true),
            (70, "60", true, false),
            (-890, "60", true, true),
            (-910, "60", false, false),
            (890, "604800", true, true),
            (910, "604800", false, true),
            (604_790, "604800", false, true),
            (604_810, "604800", false, false),
            (0, "604801", true, false),
            (0, "0", true, false),
            (0, "-1", true, false),
            (0, "+60", true, false),
            (0, "", true, false),
        ] {
            let request = Unsigned {
                age,
                expires,
                ..get()
            };
            assert_eq!(
                is_verified(&request.in_header()),
                header,
                "{age} in the header"
            );
            let verified = is_verified(&request.in_query());
            assert_eq!(verified, query, "{age} of {expires} in the query");
        }
    }

    /// Each of these is signed as it should be, and means something that this way has no rules
    /// for.
    #[test]
    fn what_asks_for_more_goes_the_long_way() {
        let with = |name, value| {
            let mut request = get();
            request.headers.push((name, value));
            request
        };
        for (name, value) in [
            ("if-match", "x"),
            ("if-none-match", "x"),
            ("if-range", "x"),
            ("range", "bytes=x"),
            ("x-amz-security-token", "x"),
            ("x-amz-expected-bucket-owner", "x"),
            ("x-amz-checksum-mode", "enabled"),
            ("x-amz-request-payer", "requester"),
            ("content-length", "0"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
        ] {
            let request = with(name, value);
            assert!(!is_verified(&request.in_header()), "{name}");
            assert!(!is_verified(&request.in_query()), "{name}");
        }
        for (name, value) in [
            ("versionId", "null"),
            ("partNumber", "1"),
            ("response-content-type", "x"),
            ("X-Amz-Security-Token", "x"),
            ("x-amz-checksum-mode", "ENABLED"),
            ("acl", ""),
            ("uploads", ""),
        ] {
            let request = Unsigned {
                extra: vec![(name, value)],
                ..get()
            };
            assert!(!is_verified(&request.in_header()), "{name}");
            assert!(!is_verified(&request.in_query()), "{name}");
        }
        for path in [
            "/",
            "/bucket",
            "/bucket/",
            "//key",
            "/bucket/a%2Fb",
            "/bucket/%c3%a4",
            "/bucket/%41",
            "/bucket/%FF",
        ] {
            let request = Unsigned { path, ..get() };
            assert!(
                PlainRead::of(&request.in_header(), None).is_none(),
                "{path}"
            );
        }
        for method in ["PUT", "DELETE", "POST"] {
            let request = Unsigned { method, ..get() };
            assert!(!is_verified(&request.in_header()), "{method}");
        }
        let request = Unsigned {
            service: "lambda",
            ..get()
        };
        assert!(!is_verified(&request.in_header()) && !is_verified(&request.in_query()));
        let sum = "0".repeat(64);
        let request = Unsigned {
            payload: sum.leak(),
            ..get()
        };
        assert!(!is_verified(&request.in_header()));
    }

    /// Signs in the header what this says, be it right or not: in this order, with these names,
    /// values and days.
    fn by_hand(names: &[&str], day: Option<&str>, agent: &str) -> Parts {
        let date = get().date();
        let (text, today) = (date.fmt_iso8601(), date.fmt_date());
        let day = day.unwrap_or(&today);
        let headers = [
            ("host", "h:1"),
            ("user-agent", agent),
            ("x-amz-content-sha256", UNSIGNED),
            ("x-amz-date", &*text),
        ];
        let value = |name: &str| {
            let mut same = headers
                .iter()
                .filter(|header| header.0.eq_ignore_ascii_case(name));
            same.next().unwrap().1
        };
        let lines: String = names
            .iter()
            .map(|name| format!("{name}:{}\n", value(name)))
            .collect();
        let names = names.join(";");
        let canonical = format!("GET\n/bucket/key\n\n{lines}\n{names}\n{UNSIGNED}");
        let digest = to_hex(&Sha256::digest(canonical).into());
        let scope = format!("{day}/us-east-1/s3/{SCOPE_END}");
        let digest = std::str::from_utf8(&digest).unwrap();
        let to_sign = format!("{ALGORITHM}\n{text}\n{scope}\n{digest}");
        let day = AmzDate::parse(&format!("{day}T000000Z")).unwrap();
        let key = s3s_sigv4::derive_signing_key(SECRET, &day, "us-east-1", "s3");
        let signature = s3s_sigv4::calculate_signature_with_key(&to_sign, &key);
        let signature = to_hex(&signature);
        let signature = std::str::from_utf8(&signature).unwrap();
        let authorization = format!(
            "{ALGORITHM} Credential={KEY}/{scope}, SignedHeaders={names}, Signature={signature}"
        );
        let mut request = get();
        request.method = "GET";
        let mut headers = headers.to_vec();
        headers.push(("authorization", &authorization));
        request.request("/bucket/key", &headers)
    }

    #[test]
    fn what_is_signed_has_one_form() {
        let names = ["host", "user-agent", "x-amz-content-sha256", "x-amz-date"];
        assert!(is_verified(&by_hand(&names, None, "a b")));
        for value in ["a  b", " a", "a ", "a\tb"] {
            assert!(!is_verified(&by_hand(&names, None, value)), "{value:?}");
        }
        assert!(
            !is_verified(&by_hand(&names, Some("20260101"), "x")),
            "another day"
        );
        for names in [
            ["x-amz-date", "x-amz-content-sha256", "user-agent", "host"],
            ["host", "host", "x-amz-content-sha256", "x-amz-date"],
            ["User-Agent", "host", "x-amz-content-sha256", "x-amz-date"],
        ] {
            assert!(!is_verified(&by_hand(&names, None, "x")), "{names:?}");
        }
    }

    #[test]
    fn the_order_of_the_query_is_the_clients() {
        let mut request = Unsigned {
            extra: vec![("x-id", "GetObject")],
            ..get()
        }
        .in_query();
        let uri = request.uri.to_string();
        let (path, query) = uri.split_once('?').unwrap();
        let pairs: Vec<&str> = query.split('&').rev().collect();
        request.uri = format!("{path}?{}", pairs.join("&")).parse().unwrap();
        assert!(is_verified(&request));
    }

    /// A header beside the signed ones changes what the request means.
    #[test]
    fn what_is_not_signed_is_not_believed() {
        let mut request = get().in_header();
        let mode = "ENABLED".parse().unwrap();
        request.headers.insert("x-amz-checksum-mode", mode);
        assert!(!is_verified(&request));
        let names = ["user-agent", "x-amz-content-sha256", "x-amz-date"];
        assert!(
            !is_verified(&by_hand(&names, None, "x")),
            "the host is not signed"
        );
        let mut request = get().in_header();
        request
            .headers
            .append("range", "bytes=0-0".parse().unwrap());
        assert!(is_verified(&request));
        request
            .headers
            .append("range", "bytes=1-1".parse().unwrap());
        assert!(!is_verified(&request), "two ranges");
        let mut request = get().in_header();
        request.headers.append("host", "other:1".parse().unwrap());
        assert!(!is_verified(&request), "two hosts");
        for header in [
            ("x-amz-date", "20260101T000000Z"),
            ("x-amz-content-sha256", UNSIGNED),
        ] {
            let mut request = get();
            request.headers.push(header);
            assert!(!is_verified(&request.in_query()), "{} twice", header.0);
        }
    }
}
