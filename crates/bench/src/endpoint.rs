//! Where a server is: `http://HOST:PORT` or `https://HOST:PORT`, and what it takes to trust it.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};

use crate::Error;

/// A server's addresses, looked up once.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// As it was written, without a slash at its end.
    pub url: String,
    /// What stands in the `Host` header.
    pub host: String,
    /// All addresses of that name; at least one.
    pub addresses: Vec<SocketAddr>,
    /// For `https`.
    pub tls: Option<Tls>,
}

/// How to speak TLS with a server.
#[derive(Debug, Clone)]
pub struct Tls {
    /// What its certificate must be for.
    pub name: ServerName<'static>,
    /// Which certificates are trusted.
    pub config: Arc<ClientConfig>,
}

impl Endpoint {
    /// Reads `http://HOST[:PORT]` or `https://HOST[:PORT]` and looks the host up. `trust` is
    /// asked for what TLS needs, for https alone.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is written otherwise, [`Error::Server`] if the name is not known,
    /// and what `trust` says.
    pub fn parse<E: From<Error>>(
        url: &str,
        trust: impl FnOnce() -> Result<Arc<ClientConfig>, E>,
    ) -> Result<Endpoint, E> {
        let wrong = |why: &str| {
            Error::Usage(format!(
                "{url:?} is not an endpoint: {why}; write it like http://127.0.0.1:9000 or \
                 https://s3.example.com"
            ))
        };
        let (scheme, default_port, rest) = match url.split_once("://") {
            Some(("http", rest)) => ("http", 80, rest),
            Some(("https", rest)) => ("https", 443, rest),
            _ => Err(wrong("it does not begin with http:// or https://"))?,
        };
        let host = rest.strip_suffix('/').unwrap_or(rest);
        if host.is_empty() || host.contains(['/', '?', '#', '@', ' ']) || !host.is_ascii() {
            Err(wrong("it must be a host and a port, and nothing else"))?;
        }
        // An IPv6 address ends with its bracket when no port follows.
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => {
                let port = port.parse::<u16>();
                (name, port.map_err(|_| wrong("it has no port that can be"))?)
            }
            _ => (host, default_port),
        };
        let name = name.trim_matches(['[', ']']);
        let unknown = |why: String| Error::Server(format!("cannot find {host}: {why}"));
        let addresses: Vec<SocketAddr> = (name, port)
            .to_socket_addrs()
            .map_err(|error| unknown(error.to_string()))?
            .collect();
        if addresses.is_empty() {
            Err(unknown("the name has no address".to_owned()))?;
        }
        let tls = if scheme == "https" {
            let name = ServerName::try_from(name.to_owned());
            let name = name.map_err(|_| wrong("no certificate can be for that name"))?;
            let config = trust()?;
            Some(Tls { name, config })
        } else {
            None
        };
        Ok(Endpoint {
            url: format!("{scheme}://{host}"),
            host: host.to_owned(),
            addresses,
            tls,
        })
    }
}

/// Why a connection failed and what to do, if TLS is why.
pub fn tls_failure(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(reason) = error else {
        return Some(match error {
            rustls::Error::InvalidMessage(_) => {
                "it does not speak TLS: does it want http:// instead?".to_owned()
            }
            other => format!("TLS failed: {other}"),
        });
    };
    Some(match reason {
        CertificateError::UnknownIssuer => "its certificate is from no authority that is trusted \
             here: name the authority's certificate with --ca FILE"
            .to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name: name the endpoint as the certificate does"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired, or this machine's clock is wrong".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or this machine's clock is wrong".to_owned()
        }
        other => format!("its certificate cannot be trusted: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Endpoint, Error> {
        Endpoint::parse(url, || {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("the provider has them")
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            Ok(Arc::new(config))
        })
    }

    #[test]
    fn endpoints_are_read() {
        for (url, host, address) in [
            ("http://127.0.0.1:9000/", "127.0.0.1:9000", "127.0.0.1:9000"),
            ("http://127.0.0.1", "127.0.0.1", "127.0.0.1:80"),
            ("http://[::1]", "[::1]", "[::1]:80"),
            ("http://[::1]:9000", "[::1]:9000", "[::1]:9000"),
            ("https://127.0.0.1", "127.0.0.1", "127.0.0.1:443"),
        ] {
            let endpoint = parse(url).expect("an endpoint");
            assert_eq!(endpoint.host, host);
            assert_eq!(endpoint.addresses[0].to_string(), address);
            assert_eq!(endpoint.tls.is_some(), url.starts_with("https"), "{url}");
        }
        let tls = parse("https://localhost:9000/").expect("an endpoint").tls;
        assert_eq!(tls.expect("for https").name.to_str(), "localhost");
    }

    #[test]
    fn others_are_refused_and_told_why() {
        for url in [
            "",
            "127.0.0.1:9000",
            "ftp://host",
            "http://",
            "http://host/path",
            "http://user@host",
            "http://a b",
            "http://host:",
            "http://host:99999",
        ] {
            assert!(matches!(parse(url), Err(Error::Usage(_))), "{url}");
        }
    }
}
