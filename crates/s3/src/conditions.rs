//! Conditional reads, with S3's precedence.

use s3s::dto::ETagCondition;

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
            if !matches(condition, etag) {
                return Verdict::Failed("If-Match");
            }
        } else if self
            .if_unmodified_since
            .is_some_and(|since| modified_seconds > since)
        {
            return Verdict::Failed("If-Unmodified-Since");
        }
        if let Some(condition) = &self.if_none_match {
            if matches(condition, etag) {
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

fn matches(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => wanted.value() == etag,
    }
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
