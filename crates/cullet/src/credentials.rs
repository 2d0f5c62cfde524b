//! The one access key: from the environment, or made at the first start and kept beside the
//! data, readable by its owner alone. There are no built-in credentials.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Context as _;
use s3::Credentials;
use shardstore::file_disk::write_private;

use crate::UsageError;

/// The variables that name the key and its secret.
const KEY_VARIABLE: &str = "CULLET_ACCESS_KEY_ID";
const SECRET_VARIABLE: &str = "CULLET_SECRET_ACCESS_KEY";

/// The file in the data directory. Its lines are shell assignments of the variables.
const FILE_NAME: &str = "cullet.credentials";

/// Shortest key and secret that are accepted; S3 clients refuse shorter ones too.
const KEY_CHARS_MIN: usize = 3;
const SECRET_CHARS_MIN: usize = 8;

/// Characters of generated keys and secrets: no two look alike, none needs escaping.
const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// The access key, and whether it was made just now.
pub(crate) struct Found {
    pub(crate) credentials: Credentials,
    pub(crate) is_new: bool,
}

/// What the environment says; to be checked before anything is touched.
///
/// # Errors
/// [`UsageError`] if only one of the two is set, or one of them cannot be used.
pub(crate) fn from_environment() -> Result<Option<Credentials>, UsageError> {
    from_variables(
        std::env::var_os(KEY_VARIABLE),
        std::env::var_os(SECRET_VARIABLE),
    )
}

fn from_variables(
    key: Option<OsString>,
    secret: Option<OsString>,
) -> Result<Option<Credentials>, UsageError> {
    let (key, secret) = match (key, secret) {
        (None, None) => return Ok(None),
        (Some(key), Some(secret)) => (key, secret),
        (set, _) => {
            let (set, unset) = match set {
                Some(_) => (KEY_VARIABLE, SECRET_VARIABLE),
                None => (SECRET_VARIABLE, KEY_VARIABLE),
            };
            return Err(UsageError::new(format!(
                "{set} is set, but {unset} is not: set both, or neither to have a key made"
            )));
        }
    };
    let key = checked(KEY_VARIABLE, key, KEY_CHARS_MIN)?;
    let secret = checked(SECRET_VARIABLE, secret, SECRET_CHARS_MIN)?;
    Ok(Some(Credentials {
        access_key_id: key,
        secret_access_key: secret,
    }))
}

fn checked(variable: &str, value: OsString, chars_min: usize) -> Result<String, UsageError> {
    let usable = |value: &String| {
        value.len() >= chars_min
            && value.bytes().all(|byte| byte.is_ascii_graphic())
            && (variable != KEY_VARIABLE || !value.contains('/'))
    };
    value.into_string().ok().filter(usable).ok_or_else(|| {
        UsageError::new(format!(
            "{variable} cannot be used: it needs at least {chars_min} printable ASCII characters, \
             without spaces; an access key id, no slashes either"
        ))
    })
}

/// The key kept in `directory`, made if there is none yet.
pub(crate) fn load_or_make(directory: &Path) -> anyhow::Result<Found> {
    match load(directory)? {
        Some(credentials) => Ok(Found {
            credentials,
            is_new: false,
        }),
        None => make(&directory.join(FILE_NAME)),
    }
}

/// The key kept in `directory`, if there is one.
pub(crate) fn load(directory: &Path) -> anyhow::Result<Option<Credentials>> {
    let path = directory.join(FILE_NAME);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let credentials = parse(&text).with_context(|| {
        format!(
            "{} does not hold {KEY_VARIABLE}=… and {SECRET_VARIABLE}=…; restore it, or delete it \
             to have a new key made",
            path.display()
        )
    })?;
    warn_if_readable(&path);
    Ok(Some(credentials))
}

fn warn_if_readable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let others = |metadata: std::fs::Metadata| metadata.permissions().mode() & 0o077 != 0;
    if std::fs::metadata(path).is_ok_and(others) {
        tracing::warn!(
            path = %path.display(),
            "others than its owner may read the file of the access key; `chmod 600` it"
        );
    }
}

fn make(path: &Path) -> anyhow::Result<Found> {
    let credentials = Credentials {
        access_key_id: format!("CULLET{}", random_text(14)?),
        secret_access_key: random_text(40)?,
    };
    write_private(path, render(&credentials).as_bytes())
        .with_context(|| format!("cannot store the new access key in {}", path.display()))?;
    Ok(Found {
        credentials,
        is_new: true,
    })
}

/// The lines of the file, also fit for a shell.
fn render(credentials: &Credentials) -> String {
    format!(
        "{KEY_VARIABLE}={}\n{SECRET_VARIABLE}={}\n",
        credentials.access_key_id, credentials.secret_access_key
    )
}

/// Which key is accepted when the environment gave it; a kept one is not, meanwhile.
pub(crate) fn say_given(given: &Credentials, directory: &Path) -> String {
    let id = &given.access_key_id;
    let mut said = format!("access key {id}, from the environment\n");
    let kept = std::fs::read_to_string(directory.join(FILE_NAME));
    let kept = kept.ok().and_then(|text| parse(&text));
    let same = |kept: &Credentials| {
        kept.access_key_id == *id && kept.secret_access_key == given.secret_access_key
    };
    if kept.is_some_and(|kept| !same(&kept)) {
        said.push_str(&format!(
            "the key in {} is not accepted while {KEY_VARIABLE} is set\n",
            directory.join(FILE_NAME).display()
        ));
    }
    said
}

/// Which key is accepted when the environment gave none.
pub(crate) fn say_found(found: &Found, directory: &Path) -> String {
    let path = directory.join(FILE_NAME);
    let path = path.display();
    if !found.is_new {
        let id = &found.credentials.access_key_id;
        return format!("access key {id}, its secret is in {path}\n");
    }
    format!(
        "a new access key, because {KEY_VARIABLE} is not set. It is kept in {path}, its secret is \
         shown only this once,\nand no other key is accepted, not even one that was given by the \
         environment before:\n{}",
        render(&found.credentials)
    )
}

fn parse(text: &str) -> Option<Credentials> {
    let value = |variable: &str| {
        let mut lines = text.lines().map(str::trim);
        lines
            .find_map(|line| line.strip_prefix(variable)?.strip_prefix('='))
            .map(str::to_owned)
    };
    let (key, secret) = (value(KEY_VARIABLE)?, value(SECRET_VARIABLE)?);
    from_variables(Some(key.into()), Some(secret.into()))
        .ok()
        .flatten()
}

/// Text from the system's randomness: five bits a character.
fn random_text(chars: usize) -> anyhow::Result<String> {
    let mut bytes = vec![0; chars];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)
            .context("the system gives no random numbers for a new access key")?;
    }
    Ok(bytes
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(key: Option<&str>, secret: Option<&str>) -> Result<Option<String>, String> {
        from_variables(key.map(Into::into), secret.map(Into::into))
            .map(|found| found.map(|credentials| credentials.access_key_id))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn both_or_neither() {
        assert_eq!(variables(None, None), Ok(None));
        assert_eq!(
            variables(Some("key"), Some("secret-secret")),
            Ok(Some("key".into()))
        );
        assert!(
            variables(Some("key"), None)
                .unwrap_err()
                .contains("SECRET_ACCESS_KEY is not")
        );
        assert!(
            variables(None, Some("secret-secret"))
                .unwrap_err()
                .contains("KEY_ID is not")
        );
        assert!(variables(Some("a/b"), Some("secret-secret")).is_err());
        assert!(variables(Some("key"), Some("short")).is_err());
        assert!(variables(Some("a key"), Some("secret-secret")).is_err());
    }

    #[test]
    fn made_once_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let directory = std::env::temp_dir().join(format!("cullet-keys-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        // Once what a crash had left lent its mode to the new key.
        let left = directory.join("cullet.new");
        std::fs::write(&left, "left").unwrap();
        std::fs::set_permissions(&left, std::fs::Permissions::from_mode(0o644)).unwrap();
        let first = load_or_make(&directory).unwrap();
        let path = directory.join(FILE_NAME);
        assert!(first.is_new);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let second = load_or_make(&directory).unwrap();
        assert!(!second.is_new);
        assert_eq!(
            second.credentials.secret_access_key,
            first.credentials.secret_access_key
        );
        assert_eq!(first.credentials.access_key_id.len(), 20);
        assert!(say_found(&first, &directory).contains(&first.credentials.secret_access_key));
        let said = say_found(&second, &directory);
        assert!(said.contains(&first.credentials.access_key_id), "{said}");
        assert!(!said.contains(&first.credentials.secret_access_key));
        // A key from the environment shuts the kept one out, but for the same one.
        assert!(!say_given(&first.credentials, &directory).contains("not accepted"));
        let given = Credentials {
            access_key_id: "admin".to_owned(),
            secret_access_key: "secret-secret".to_owned(),
        };
        let said = say_given(&given, &directory);
        assert!(said.starts_with("access key admin, from the environment\n"));
        assert!(said.contains("is not accepted while"), "{said}");
        assert!(!said.contains("secret-secret"));
        std::fs::write(&path, "nonsense").unwrap();
        assert!(load_or_make(&directory).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
