//! Whose certificates the commands that are clients trust: those of a file, or the system's.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bench::endpoint::Endpoint;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::UsageError;

/// The server of `--endpoint`, and for https the authorities that are trusted: those of `--ca`,
/// or else the system's.
///
/// # Errors
/// [`UsageError`] if it is no endpoint; a sentence if its host is not known, or if no authority
/// is.
pub(crate) fn endpoint(url: &str, authorities: Option<&Path>) -> anyhow::Result<Endpoint> {
    if authorities.is_some() && url.starts_with("http://") {
        let sentence =
            format!("--ca is for https, and {url} is not: write https://, or leave it out");
        return Err(UsageError::new(sentence).into());
    }
    let endpoint = Endpoint::parse(url, || Ok(Arc::new(config(authorities)?)));
    endpoint.map_err(|error: Failure| match error {
        Failure::Bench(bench::Error::Usage(sentence)) => UsageError::new(sentence).into(),
        Failure::Bench(other) => anyhow::Error::new(other),
        Failure::Trust(error) => error,
    })
}

enum Failure {
    Bench(bench::Error),
    Trust(anyhow::Error),
}

impl From<bench::Error> for Failure {
    fn from(error: bench::Error) -> Failure {
        Failure::Bench(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Trust(error)
    }
}

fn config(authorities: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let roots = match authorities {
        Some(file) => roots_in(file)?,
        None => roots_of_the_system()?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn roots_in(file: &Path) -> anyhow::Result<RootCertStore> {
    let shown = file.display();
    let pem = std::fs::read(file).with_context(|| format!("--ca {shown} cannot be read"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.with_context(|| format!("--ca {shown} is no PEM file"))?;
        roots
            .add(certificate)
            .with_context(|| format!("--ca {shown} holds a certificate that cannot be used"))?;
    }
    anyhow::ensure!(
        !roots.is_empty(),
        "--ca {shown} holds no certificate: it must be a PEM file with the certificate of the \
         authority that issued the server's"
    );
    Ok(roots)
}

/// `SSL_CERT_FILE` and `SSL_CERT_DIR`, or where distributions keep them.
fn roots_of_the_system() -> anyhow::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some of what systems trust is too old to be read; the rest counts.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        anyhow::bail!(
            "this system trusts no certificate authority: install ca-certificates, or name the \
             server's authority with --ca FILE{}",
            if why.is_empty() {
                String::new()
            } else {
                format!(" ({})", why.join("; "))
            }
        );
    }
    Ok(roots)
}
