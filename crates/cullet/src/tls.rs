//! TLS: the certificate and its key, read at the start and whenever they change.
//!
//! What must always hold:
//! - the pair in use is one that was whole: its key matches its certificate;
//! - a pair that cannot be used changes nothing but the log;
//! - connections keep the pair that they began with.
//!
//! Changes are found by reading both files every few seconds: whoever renews them may write in
//! place, rename, or swap a symbolic link above them, and may not have finished with the second.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ServerSessionMemoryCache;
use rustls::{InconsistentKeys, ServerConfig};
use tokio::sync::Notify;

use crate::certificate;
use crate::limits::{TLS_FILE_BYTES_MAX, TLS_POLL, TLS_SESSIONS_MAX};

/// What clients may choose from, best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The pair in use, and where it comes from.
pub(crate) struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<Pair>,
    /// Files are read again at once.
    hurry: Notify,
    hasher: RandomState,
}

struct Pair {
    config: Arc<ServerConfig>,
    /// End of validity, in seconds since 1970, if the certificate says one that can be read.
    expires: Option<i64>,
    /// What the files hashed to when this pair was read.
    print: u64,
}

/// A file, as it was read.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    print: u64,
}

/// Why a pair cannot be used, and what to do.
#[derive(Debug)]
pub(crate) struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

impl Tls {
    /// Reads the pair.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Tls, TlsError> {
        let hasher = RandomState::new();
        let files = Files::read(certificate, key, &hasher)?;
        let pair = Pair::new(&files, certificate, key)?;
        Ok(Tls {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current: Mutex::new(pair),
            hurry: Notify::new(),
            hasher,
        })
    }

    /// What a connection that begins now uses.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.with(|pair| pair.config.clone())
    }

    /// When the certificate in use expires, in seconds since 1970.
    pub(crate) fn expires(&self) -> Option<i64> {
        self.with(|pair| pair.expires)
    }

    /// Logs what clients will not like about the certificate in use.
    pub(crate) fn warn_if_invalid(&self) {
        self.with(|pair| pair.warn_if_invalid(&self.certificate));
    }

    /// Has the files read again now.
    pub(crate) fn reload_soon(&self) {
        self.hurry.notify_one();
    }

    /// Reads the files again for ever, whenever they may have changed.
    pub(crate) async fn watch(self: Arc<Tls>) {
        let mut failed = None;
        loop {
            let hurried = tokio::time::timeout(TLS_POLL, self.hurry.notified())
                .await
                .is_ok();
            let (tls, before) = (self.clone(), failed.clone());
            // Files may be on something slow.
            let looked = tokio::task::spawn_blocking(move || tls.look(before, hurried)).await;
            failed = looked.unwrap_or(None);
        }
    }

    /// One look. `failed` is the failure of the look before; one is logged when it is seen for
    /// the second time, because a renewal that is half done is none. Returns this look's failure.
    fn look(&self, failed: Option<Failure>, hurried: bool) -> Option<Failure> {
        let (print, error) = match Files::read(&self.certificate, &self.key, &self.hasher) {
            Err(error) => (None, error),
            Ok(files) if files.print == self.with(|pair| pair.print) => {
                if hurried {
                    tracing::info!("the certificate and its key have not changed");
                }
                return None;
            }
            Ok(files) => match Pair::new(&files, &self.certificate, &self.key) {
                Err(error) => (Some(files.print), error),
                Ok(pair) => {
                    pair.warn_if_invalid(&self.certificate);
                    tracing::info!(expires = ?pair.expires, "a new certificate is in use");
                    *self.current.lock().unwrap_or_else(PoisonError::into_inner) = pair;
                    return None;
                }
            },
        };
        let seen = failed.filter(|failed| failed.print == print);
        let logged = seen.as_ref().is_some_and(|failed| failed.logged);
        if hurried || (seen.is_some() && !logged) {
            tracing::warn!(%error, "the new certificate is not used; the old one stays in use");
            return Some(Failure {
                print,
                logged: true,
            });
        }
        Some(Failure { print, logged })
    }

    fn with<T>(&self, read: impl FnOnce(&Pair) -> T) -> T {
        read(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What was wrong at a look.
#[derive(Debug, Clone)]
struct Failure {
    /// What the files hashed to; `None` if they could not be read.
    print: Option<u64>,
    logged: bool,
}

impl Files {
    fn read(certificate: &Path, key: &Path, hasher: &RandomState) -> Result<Files, TlsError> {
        let certificate = read("--tls-cert", certificate)?;
        let key = read("--tls-key", key)?;
        let print = hasher.hash_one((&certificate, &key));
        Ok(Files {
            certificate,
            key,
            print,
        })
    }
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let shown = path.display();
    let fail = |error: std::io::Error| TlsError(format!("cannot read {flag} {shown}: {error}"));
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut bytes = Vec::new();
    file.take(TLS_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    match bytes.len() as u64 > TLS_FILE_BYTES_MAX {
        true => Err(TlsError(format!(
            "{flag} {shown} is too large for what it should be"
        ))),
        false => Ok(bytes),
    }
}

impl Pair {
    fn new(files: &Files, certificate_path: &Path, key_path: &Path) -> Result<Pair, TlsError> {
        let shown = certificate_path.display();
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&files.certificate)
                .collect::<Result<_, _>>()
                .map_err(|error| TlsError(format!("--tls-cert {shown} is not PEM: {error}")))?;
        let Some(first) = chain.first() else {
            return Err(TlsError(format!(
                "there is no certificate in --tls-cert {shown}: it needs the server's, then those \
                 that signed it, as PEM"
            )));
        };
        let expires = certificate::validity(first).map(|(_, end)| end);
        let key = private_key(&files.key, key_path)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError(format!("TLS cannot be set up: {error}")))?
            .with_no_client_auth()
            .with_single_cert(chain, key);
        let mut config = config.map_err(|error| unusable(&error, certificate_path, key_path))?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        config.session_storage = ServerSessionMemoryCache::new(TLS_SESSIONS_MAX);
        Ok(Pair {
            config: Arc::new(config),
            expires,
            print: files.print,
        })
    }

    /// Clients will refuse such a certificate; a server that does not start helps nobody more.
    fn warn_if_invalid(&self, path: &Path) {
        let path = path.display();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        match self.expires {
            Some(expires) if expires < now => {
                tracing::warn!("the certificate in {path} has expired: clients will refuse it");
            }
            Some(_) => {}
            None => tracing::warn!("when the certificate in {path} expires cannot be read"),
        }
    }
}

fn private_key(pem: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let shown = path.display();
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        TlsError(match error {
            PemError::NoItemsFound if is_encrypted(pem) => {
                format!("the key in --tls-key {shown} has a passphrase: write it without one")
            }
            PemError::NoItemsFound => format!(
                "there is no private key in --tls-key {shown}: it needs one as PEM, in PKCS#8, \
                 PKCS#1 or SEC1"
            ),
            error => format!("--tls-key {shown} is not PEM: {error}"),
        })
    })
}

fn is_encrypted(pem: &[u8]) -> bool {
    let mark = b"ENCRYPTED PRIVATE KEY";
    pem.windows(mark.len()).any(|window| window == mark)
}

fn unusable(error: &rustls::Error, certificate: &Path, key: &Path) -> TlsError {
    let (certificate, key) = (certificate.display(), key.display());
    TlsError(match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
            "the key in --tls-key {key} does not match the first certificate in --tls-cert \
             {certificate}"
        ),
        error => format!("--tls-cert {certificate} and --tls-key {key} cannot be used: {error}"),
    })
}
