//! What both ends of TLS share: the cryptography, and a look at PEM texts before anything depends on them.
//!
//! rustls takes a file without any certificate for an authority that signed nothing, and says so in the first handshake,
//! days later. Here it is an error at start that names the flag.

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Why a PEM text is not what its flag is for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    #[error("{flag}: the file holds no certificate; in PEM, one begins with -----BEGIN CERTIFICATE-----")]
    NoCertificate { flag: &'static str },
    #[error("{flag}: the file's certificate is damaged: {reason}; copy it again from where it was made")]
    BadCertificate { flag: &'static str, reason: String },
    #[error("{flag}: the file holds no private key; in PEM, one begins with -----BEGIN PRIVATE KEY-----")]
    NoKey { flag: &'static str },
    #[error(
        "{flag}: the key is encrypted, and there is nobody to ask for its passphrase: decrypt it with \
         `openssl pkey -in FILE -out NEW-FILE`"
    )]
    EncryptedKey { flag: &'static str },
    #[error(
        "{key_flag} is not the key of the first certificate in {certificate_flag}: give two that were made together, and \
         in a chain the own certificate first"
    )]
    Mismatch { certificate_flag: &'static str, key_flag: &'static str },
}

/// A PEM text and the flag it came by.
#[derive(Clone, Copy)]
pub struct Pem<'a> {
    pub flag: &'static str,
    pub text: &'a [u8],
}

/// The text may be a private key.
impl std::fmt::Debug for Pem<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pem").field("flag", &self.flag).finish_non_exhaustive()
    }
}

/// Makes ring the cryptography of this process. Without it rustls panics as soon as some dependency brings a second one.
pub fn use_ring() {
    // An error means that the choice was made before; nothing here makes another.
    ring::default_provider().install_default().ok();
}

/// A certificate chain and its key.
pub fn check_identity(certificate: Pem<'_>, key: Pem<'_>) -> Result<(), PemError> {
    let chain = certificates(certificate)?;
    let flag = key.flag;
    let key = PrivateKeyDer::from_pem_slice(key.text).map_err(|_| match key.is_encrypted() {
        true => PemError::EncryptedKey { flag },
        false => PemError::NoKey { flag },
    })?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map(drop).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            PemError::Mismatch { certificate_flag: certificate.flag, key_flag: flag }
        }
        rustls::Error::InvalidCertificate(reason) => certificate.damaged(&reason),
        _ => PemError::NoKey { flag },
    })
}

/// Authorities that are to be trusted. Those in a large bundle that are beyond us do no harm; none at all does.
pub fn check_authorities(pem: Pem<'_>) -> Result<(), PemError> {
    let mut roots = RootCertStore::empty();
    let mut last = None;
    for certificate in certificates(pem)? {
        last = roots.add(certificate).err().or(last);
    }
    match last {
        Some(error) if roots.is_empty() => Err(pem.damaged(&error)),
        _ => Ok(()),
    }
}

fn certificates(pem: Pem<'_>) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.text).collect();
    let certificates = certificates.map_err(|error| pem.damaged(&error))?;
    if certificates.is_empty() { Err(PemError::NoCertificate { flag: pem.flag }) } else { Ok(certificates) }
}

impl Pem<'_> {
    fn damaged(&self, reason: &impl ToString) -> PemError {
        PemError::BadCertificate { flag: self.flag, reason: reason.to_string() }
    }

    fn is_encrypted(&self) -> bool {
        self.text.windows(9).any(|window| window == b"ENCRYPTED")
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    fn pair() -> (String, String) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["a".to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    fn identity(certificate: &str, key: &str) -> Result<(), PemError> {
        check_identity(
            Pem { flag: "--tls-cert", text: certificate.as_bytes() },
            Pem { flag: "--tls-key", text: key.as_bytes() },
        )
    }

    fn authorities(text: &str) -> Result<(), PemError> {
        check_authorities(Pem { flag: "--tls-ca", text: text.as_bytes() })
    }

    #[test]
    fn a_certificate_goes_with_its_own_key_only() {
        let ((certificate, key), (_, foreign)) = (pair(), pair());
        assert_eq!(identity(&certificate, &key), Ok(()));
        let error = identity(&certificate, &foreign).unwrap_err().to_string();
        assert!(error.contains("--tls-key is not the key of") && error.contains("--tls-cert"), "{error}");
    }

    #[test]
    fn each_file_that_is_something_else_is_named_by_its_flag() {
        let (certificate, key) = pair();
        for nothing in ["", "garbage", key.as_str()] {
            assert_eq!(identity(nothing, &key), Err(PemError::NoCertificate { flag: "--tls-cert" }));
            assert_eq!(authorities(nothing), Err(PemError::NoCertificate { flag: "--tls-ca" }));
        }
        for nothing in ["", "garbage", certificate.as_str()] {
            assert_eq!(identity(&certificate, nothing), Err(PemError::NoKey { flag: "--tls-key" }));
        }
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert_eq!(identity(&certificate, encrypted), Err(PemError::EncryptedKey { flag: "--tls-key" }));
    }

    #[test]
    fn a_certificate_cut_short_or_overwritten_is_damaged() {
        let (certificate, key) = pair();
        let overwritten = "-----BEGIN CERTIFICATE-----\nAAAAAAAA\n-----END CERTIFICATE-----\n";
        for damaged in [&certificate[..certificate.len() / 2], overwritten] {
            let error = identity(damaged, &key).unwrap_err();
            assert!(matches!(error, PemError::BadCertificate { flag: "--tls-cert", .. }), "{error}");
            let error = authorities(damaged).unwrap_err();
            assert!(matches!(error, PemError::BadCertificate { flag: "--tls-ca", .. }), "{error}");
        }
        assert_eq!(authorities(&format!("{overwritten}{certificate}")), Ok(()));
    }

    #[test]
    fn a_key_is_never_printed() {
        let pem = Pem { flag: "--tls-key", text: b"secret" };
        assert_eq!(format!("{pem:?}"), r#"Pem { flag: "--tls-key", .. }"#);
    }
}
