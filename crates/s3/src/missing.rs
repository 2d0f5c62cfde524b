//! Operations that S3 has and this server has not: what they are called in reports, and what
//! helps whoever asks for one.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use s3s::{S3Error, s3_error};

/// The refusal of an operation that is not there.
pub(crate) fn refuse(operation: &str) -> S3Error {
    match hint(operation) {
        Some(hint) => s3_error!(NotImplemented, "{operation} is not there yet: {hint}."),
        None => s3_error!(NotImplemented, "{operation} is not there yet."),
    }
}

/// What a client can do instead.
fn hint(operation: &str) -> Option<&'static str> {
    Some(match operation {
        "RenameObject" => "copy the object to the other key and delete it",
        "SelectObjectContent" => "get the object, or a range of it, and filter it yourself",
        "PutBucketVersioning" => "a bucket keeps one version of each object",
        _ => return None,
    })
}

/// The name of an operation that is not there, for reports. The router knows a fixed number of
/// operations, which bounds both what is kept here for good and the labels of metrics.
pub(crate) fn kept_name(operation: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) = names.get(operation) {
        return name;
    }
    let name: &'static str = operation.to_owned().leak();
    names.insert(name);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_in_one_sentence() {
        for operation in ["RenameObject", "PutBucketVersioning", "PutBucketPolicy"] {
            let error = refuse(operation);
            let message = error.message().unwrap();
            assert!(message.starts_with(&format!("{operation} is not there yet")));
            assert!(
                message.ends_with('.') && !message.contains("  "),
                "{message}"
            );
        }
        let renaming = refuse("RenameObject");
        assert!(renaming.message().unwrap().contains("copy the object"));
    }

    #[test]
    fn a_name_is_kept_once() {
        let first = kept_name(&String::from("GetBucketPolicy"));
        let second = kept_name(&String::from("GetBucketPolicy"));
        assert_eq!(first, "GetBucketPolicy");
        assert!(std::ptr::eq(first, second));
    }
}
