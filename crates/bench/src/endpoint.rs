//! Where a server is: `http://HOST:PORT`.

use std::net::{SocketAddr, ToSocketAddrs};

use crate::Error;

/// A server's address, looked up once.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// As it was written, without a slash at its end.
    pub url: String,
    /// What stands in the `Host` header.
    pub host: String,
    /// The first address of that name.
    pub address: SocketAddr,
}

impl Endpoint {
    /// Reads `http://HOST[:PORT]` and looks the host up.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is written otherwise, [`Error::Server`] if the name is not known.
    pub fn parse(url: &str) -> Result<Endpoint, Error> {
        if url.starts_with("https://") {
            return Err(Error::Usage(format!(
                "{url}: https is not there yet; name an http:// endpoint"
            )));
        }
        let wrong = |why: &str| {
            Error::Usage(format!(
                "{url:?} is not an endpoint: {why}; write it like http://127.0.0.1:9000"
            ))
        };
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| wrong("it does not begin with http://"))?;
        let host = rest.strip_suffix('/').unwrap_or(rest);
        if host.is_empty() || host.contains(['/', '?', '#', '@', ' ']) || !host.is_ascii() {
            return Err(wrong("it must be a host and a port, and nothing else"));
        }
        // An IPv6 address ends with its bracket when no port follows.
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| {
            !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
        });
        let with_port = if has_port {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let unknown = |why: String| Error::Server(format!("cannot find {host}: {why}"));
        let address = with_port
            .to_socket_addrs()
            .map_err(|error| unknown(error.to_string()))?
            .next()
            .ok_or_else(|| unknown("the name has no address".to_owned()))?;
        Ok(Endpoint {
            url: format!("http://{host}"),
            host: host.to_owned(),
            address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read() {
        let endpoint = Endpoint::parse("http://127.0.0.1:9000/").expect("an endpoint");
        assert_eq!(endpoint.host, "127.0.0.1:9000");
        assert_eq!(endpoint.address.port(), 9000);
        let endpoint = Endpoint::parse("http://[::1]").expect("an endpoint");
        assert_eq!(endpoint.address.to_string(), "[::1]:80");
    }

    #[test]
    fn others_are_refused_and_told_why() {
        for url in [
            "127.0.0.1:9000",
            "http://",
            "http://host/path",
            "http://a b",
        ] {
            assert!(
                matches!(Endpoint::parse(url), Err(Error::Usage(_))),
                "{url}"
            );
        }
        let error = Endpoint::parse("https://127.0.0.1:9000").expect_err("no https");
        assert!(error.to_string().contains("https is not there yet"));
    }
}
