//! What must not be, and of what kind it is.
//!
//! The kind decides what a lying disk was good for: only what a lie can bring about shows that
//! lies are noticed. A server that cannot start because its port is taken shows nothing.

use std::sync::{Mutex, MutexGuard};

use crate::s3::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Acknowledged data are lost, deleted ones are back, or bytes are wrong.
    Data,
    /// The engine refuses to open the disk, because of damage.
    RefusedToOpen,
    /// Anything else: a wrong answer, a broken connection, a server that does not start.
    Other,
}

#[derive(Debug)]
pub struct Finding {
    pub kind: Kind,
    pub text: String,
}

/// The findings of a run, oldest first.
#[derive(Debug, Default)]
pub struct Findings(Mutex<Vec<Finding>>);

impl Findings {
    pub fn add(&self, kind: Kind, text: String) {
        self.list().push(Finding { kind, text });
    }

    pub fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    pub fn into_list(self) -> Vec<Finding> {
        self.0.into_inner().unwrap_or_default()
    }

    fn list(&self) -> MutexGuard<'_, Vec<Finding>> {
        self.0.lock().expect("no thread panics while it reports")
    }
}

/// What an answer shows that should have been a success: that what was acknowledged is gone or
/// damaged, or something that has nothing to do with data.
pub fn of_failure(failure: &Failure) -> Kind {
    match failure {
        Failure::Refused { code, message, .. }
            if code == "NoSuchBucket"
                || (code == "InternalError" && message.contains(" is damaged (")) =>
        {
            Kind::Data
        }
        _ => Kind::Other,
    }
}

/// Why a server did not start, by what it wrote last.
pub fn of_failed_start(last_words: &str) -> Kind {
    let what = String::new();
    let damaged = shardstore::Error::Damaged { what }.to_string();
    let sentence = damaged.split(':').next().unwrap_or(&damaged);
    if last_words.contains(sentence) {
        Kind::RefusedToOpen
    } else {
        Kind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_damage_prevents_is_told_from_others() {
        let damaged = shardstore::Error::Damaged {
            what: "the log ends too early".to_owned(),
        };
        let words = format!("cullet: cannot open /disk: {damaged}");
        assert_eq!(of_failed_start(&words), Kind::RefusedToOpen);
        let taken = "cullet: cannot listen on 127.0.0.1:9000: Address already in use";
        assert_eq!(of_failed_start(taken), Kind::Other);
        assert_eq!(of_failed_start(""), Kind::Other);
    }

    #[test]
    fn an_answer_shows_lost_data_only_when_it_says_so() {
        let refused = |status, code: &str, message: &str| Failure::Refused {
            status,
            code: code.to_owned(),
            message: message.to_owned(),
        };
        let corrupt = objects::Error::Corrupt {
            what: "a stripe of a blob".to_owned(),
            place: "extent 3 at byte 64: wrong checksum".to_owned(),
        };
        for failure in [
            refused(404, "NoSuchBucket", "the bucket torture does not exist"),
            refused(500, "InternalError", &corrupt.to_string()),
        ] {
            assert_eq!(of_failure(&failure), Kind::Data, "{failure:?}");
        }
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        for failure in [
            refused(500, "InternalError", "internal error: a bug"),
            refused(403, "AccessDenied", "access denied"),
            Failure::Broken(broken),
        ] {
            assert_eq!(of_failure(&failure), Kind::Other, "{failure:?}");
        }
    }
}
