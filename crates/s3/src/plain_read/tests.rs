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
        let canonical =
            s3s_sigv4::create_canonical_request(self.method, &path, &self.extra, &headers, payload);
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
