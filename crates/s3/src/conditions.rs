//! Conditional reads, with S3's precedence.

use s3s::dto::{ETag, ETagCondition};

/// The conditions of a GET or HEAD. Times are whole seconds since the Unix epoch, as HTTP
/// dates have them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReadConditions {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_modified_since: Option<i64>,
    pub(crate) if_unmodified_since: Option<i64>,
}

/// What the conditions say about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send it.
    Proceed,
    /// The client has it already: 304.
    NotModified,
    /// The object is not what the client expects: 412. Names the header.
    Failed(&'static str),
}

impl ReadConditions {
    /// `If-Match` outweighs `If-Unmodified-Since`, `If-None-Match` outweighs
    /// `If-Modified-Since`, and what can fail comes before what can spare the body.
    pub(crate) fn evaluate(&self, etag: &str, modified_seconds: i64) -> Verdict {
        if let Some(condition) = &self.if_match {
            if !matches(condition, etag, Weak::Differs) {
                return Verdict::Failed("If-Match");
            }
        } else if self
            .if_unmodified_since
            .is_some_and(|since| modified_seconds > since)
        {
            return Verdict::Failed("If-Unmodified-Since");
        }
        if let Some(condition) = &self.if_none_match {
            if matches(condition, etag, Weak::Matches) {
                return Verdict::NotModified;
            }
        } else if self
            .if_modified_since
            .is_some_and(|since| modified_seconds <= since)
        {
            return Verdict::NotModified;
        }
        Verdict::Proceed
    }
}

/// What a weak tag (`W/"…"`) says of an object, whose own tag is strong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weak {
    Matches,
    Differs,
}

fn matches(condition: &ETagCondition, etag: &str, weak: Weak) -> bool {
    let tag = match condition {
        ETagCondition::Any => return true,
        ETagCondition::ETag(tag) => tag,
    };
    // `s3s` takes a list for one tag with quotes and commas in it. Tags of objects have none.
    let text = match tag {
        ETag::Strong(value) => format!("\"{value}\""),
        ETag::Weak(value) => format!("W/\"{value}\""),
    };
    text.split(',').map(str::trim).any(|tag| {
        let (tag, is_weak) = match tag.strip_prefix("W/") {
            Some(tag) => (tag, true),
            None => (tag, false),
        };
        tag.trim_matches('"') == etag && (!is_weak || weak == Weak::Matches)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(text: &str) -> Option<ETagCondition> {
        Some(text.parse().unwrap())
    }

    fn verdict(conditions: ReadConditions) -> Verdict {
        conditions.evaluate("abc", 1_000)
    }

    fn none() -> ReadConditions {
        ReadConditions::default()
    }

    #[test]
    fn each_alone() {
        let failed = Verdict::Failed;
        for (conditions, expected) in [
            (none(), Verdict::Proceed),
            (
                ReadConditions {
                    if_match: tag("\"abc\""),
                    ..none()
                },
                Verdict::Proceed,
            ),
            (
                ReadConditions {
                    if_match: tag("abc"),
                    ..none()
                },
                Verdict::Proceed,
            ),
            (
                ReadConditions {
                    if_match: tag("*"),
                    ..none()
                },
                Verdict::Proceed,
            ),
            (
                ReadConditions {
                    if_match: tag("\"x\""),
                    ..none()
                },
                failed("If-Match"),
            ),
            (
                ReadConditions {
                    if_none_match: tag("\"abc\""),
                    ..none()
                },
                Verdict::NotModified,
            ),
            (
                ReadConditions {
                    if_none_match: tag("*"),
                    ..none()
                },
                Verdict::NotModified,
            ),
            (
                ReadConditions {
                    if_none_match: tag("\"x\""),
                    ..none()
                },
                Verdict::Proceed,
            ),
            (
                ReadConditions {
                    if_modified_since: Some(999),
                    ..none()
                },
                Verdict::Proceed,
            ),
            (
                ReadConditions {
                    if_modified_since: Some(1_000),
                    ..none()
                },
                Verdict::NotModified,
            ),
            (
                ReadConditions {
                    if_unmodified_since: Some(1_000),
                    ..none()
                },
                Verdict::Proceed,
            ),
            (
                ReadConditions {
                    if_unmodified_since: Some(999),
                    ..none()
                },
                failed("If-Unmodified-Since"),
            ),
        ] {
            assert_eq!(verdict(conditions.clone()), expected, "{conditions:?}");
        }
    }

    #[test]
    fn lists_and_weak_tags() {
        for (list, if_match, if_none_match) in [
            ("\"x\", \"abc\"", true, true),
            ("\"abc\",\"x\"", true, true),
            ("\"x\", \"y\"", false, false),
            ("W/\"abc\"", false, true),
            ("\"x\", W/\"abc\"", false, true),
            ("W/\"x\", \"abc\"", true, true),
        ] {
            let matched = verdict(ReadConditions {
                if_match: tag(list),
                ..none()
            });
            assert_eq!(matched == Verdict::Proceed, if_match, "If-Match: {list}");
            let unchanged = verdict(ReadConditions {
                if_none_match: tag(list),
                ..none()
            });
            assert_eq!(
                unchanged == Verdict::NotModified,
                if_none_match,
                "If-None-Match: {list}"
            );
        }
    }

    #[test]
    fn tags_outweigh_times() {
        let matching = ReadConditions {
            if_match: tag("\"abc\""),
            if_unmodified_since: Some(1),
            ..none()
        };
        assert_eq!(verdict(matching), Verdict::Proceed);
        let unchanged = ReadConditions {
            if_none_match: tag("\"abc\""),
            if_modified_since: Some(1),
            ..none()
        };
        assert_eq!(verdict(unchanged), Verdict::NotModified);
        let changed = ReadConditions {
            if_none_match: tag("\"x\""),
            if_modified_since: Some(2_000),
            ..none()
        };
        assert_eq!(verdict(changed), Verdict::Proceed);
        let both = ReadConditions {
            if_match: tag("\"x\""),
            if_none_match: tag("\"abc\""),
            ..none()
        };
        assert_eq!(verdict(both), Verdict::Failed("If-Match"));
    }
}
