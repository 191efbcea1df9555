//! etcd: members, user and certificates.

use std::path::PathBuf;

use backends::registry::etcd::{Credentials, Options, Tls};
use runtime::tls::{Pem, check_authorities, check_identity};

use super::kafka::HEADING;
use super::{ExternalError, PlainText, is_remote, read};

const PASSWORD: &str = "WATCHFLOOR_ETCD_PASSWORD";

/// How to speak to etcd.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct EtcdFlags {
    /// etcd's user; the password is in WATCHFLOOR_ETCD_PASSWORD or a file.
    #[arg(long = "etcd-user", value_name = "NAME", env = "WATCHFLOOR_ETCD_USER", help_heading = HEADING)]
    user: Option<String>,
    /// A file with the user's password.
    #[arg(long = "etcd-password-file", value_name = "FILE", requires = "user", help_heading = HEADING)]
    password_file: Option<PathBuf>,
    /// Encrypt; the authority that signed etcd's certificate, PEM.
    #[arg(long = "etcd-ca", value_name = "FILE", env = "WATCHFLOOR_ETCD_CA", help_heading = HEADING)]
    ca: Option<PathBuf>,
    /// Our certificate for etcd, PEM.
    #[arg(long = "etcd-cert", value_name = "FILE", requires_all = ["key", "ca"], help_heading = HEADING)]
    cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long = "etcd-key", value_name = "FILE", requires = "cert", help_heading = HEADING)]
    key: Option<PathBuf>,
    /// The name in etcd's certificate, where it is not the host connected to.
    #[arg(long = "etcd-server-name", value_name = "NAME", requires = "ca", help_heading = HEADING)]
    server_name: Option<String>,
}

impl EtcdFlags {
    /// `uri` is `etcd://host:port[,...]`.
    pub(crate) fn options(
        &self,
        uri: &str,
        plain: PlainText,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Options, ExternalError> {
        let mut options = Options::from_uri(uri)?;
        options.credentials = self.credentials(variable)?;
        options.tls = self.tls()?;
        if let Some(host) = options.endpoints.iter().find(|endpoint| is_remote(endpoint))
            && !plain.insecure
            && options.tls.is_none()
        {
            let (host, remedy) = (host.clone(), "give --etcd-ca");
            return Err(ExternalError::Exposed { what: "etcd", host, remedy });
        }
        Ok(options)
    }

    fn credentials(
        &self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Credentials>, ExternalError> {
        let Some(user) = &self.user else { return Ok(None) };
        let password = match &self.password_file {
            Some(path) => {
                let text = read("--etcd-password-file", path)?;
                Some(String::from_utf8_lossy(&text).trim_end_matches(['\r', '\n']).to_owned())
            }
            None => variable(PASSWORD),
        };
        let without = ExternalError::Without {
            given: "--etcd-user",
            missing: "its password (WATCHFLOOR_ETCD_PASSWORD)",
        };
        Ok(Some(Credentials { user: user.clone(), password: password.ok_or(without)? }))
    }

    fn tls(&self) -> Result<Option<Tls>, ExternalError> {
        let Some(ca) = &self.ca else { return Ok(None) };
        let authorities = read("--etcd-ca", ca)?;
        check_authorities(Pem { flag: "--etcd-ca", text: &authorities })?;
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let (cert, key) = (read("--etcd-cert", cert)?, read("--etcd-key", key)?);
                check_identity(
                    Pem { flag: "--etcd-cert", text: &cert },
                    Pem { flag: "--etcd-key", text: &key },
                )?;
                Some((cert, key))
            }
            _ => None,
        };
        runtime::tls::use_ring();
        Ok(Some(Tls { authorities, identity, server_name: self.server_name.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(flags: &EtcdFlags, uri: &str) -> Result<Options, ExternalError> {
        flags.options(uri, PlainText::default(), |name| (name == PASSWORD).then(|| "secret".to_owned()))
    }

    #[test]
    fn a_user_comes_with_a_password_from_environment_or_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "from file\n").unwrap();
        let mut flags = EtcdFlags { user: Some("root".to_owned()), ..EtcdFlags::default() };
        let password = |flags: &EtcdFlags| {
            options(flags, "etcd://localhost").unwrap().credentials.map(|found| found.password)
        };
        assert_eq!(password(&flags).as_deref(), Some("secret"));
        let none = flags.options("etcd://localhost", PlainText::default(), |_| None).unwrap_err();
        assert!(none.to_string().contains("WATCHFLOOR_ETCD_PASSWORD"), "{none}");
        flags.password_file = Some(path);
        assert_eq!(password(&flags).as_deref(), Some("from file"));
    }

    #[test]
    fn plain_text_to_another_machine_needs_the_operators_word() {
        let error = options(&EtcdFlags::default(), "etcd://localhost,db:2379").unwrap_err().to_string();
        assert!(error.contains("db:2379") && error.contains("--etcd-ca"), "{error}");
        let plain = PlainText { insecure: true };
        assert!(EtcdFlags::default().options("etcd://db", plain, |_| None).is_ok());
    }

    #[test]
    fn an_authority_that_is_none_is_refused_with_its_flag() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        std::fs::write(&path, "nothing").unwrap();
        let flags = EtcdFlags { ca: Some(path), ..EtcdFlags::default() };
        let error = options(&flags, "etcd://db").unwrap_err().to_string();
        assert!(error.contains("--etcd-ca"), "{error}");
    }
}
