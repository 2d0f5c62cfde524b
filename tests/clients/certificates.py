"""Certificates for tests: an authority of our own, and what it signs."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

NAMES = ["localhost", "s3.localhost", "*.s3.localhost"]


def _named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject, issuer, public_key, days):
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(_named(subject))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


class Authority:
    def __init__(self, directory):
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = _named("cullet tests")
        self.certificate = (
            _builder("cullet tests", name, self.key.public_key(), 10)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(
                x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True
            )
            .sign(self.key, hashes.SHA256())
        )
        self.path = directory / "ca.pem"
        self.path.write_bytes(pem(self.certificate))

    def issue(self, kind="ec", days=5, form="PKCS8", address="127.0.0.1"):
        """(certificate, key) as PEM, for an address and NAMES."""
        if kind == "ec":
            key = ec.generate_private_key(ec.SECP256R1())
        else:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        names = [x509.DNSName(name) for name in NAMES]
        names.append(x509.IPAddress(ipaddress.ip_address(address)))
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        certificate = (
            _builder("server", self.certificate.subject, key.public_key(), days)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(issuer, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            getattr(serialization.PrivateFormat, form),
            serialization.NoEncryption(),
        )
        return pem(certificate), private

    def write(self, name="server", **how):
        """Issues into files, and returns their paths."""
        certificate, key = self.issue(**how)
        paths = self.directory / f"{name}.pem", self.directory / f"{name}-key.pem"
        paths[0].write_bytes(certificate)
        paths[1].write_bytes(key)
        return paths


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)
