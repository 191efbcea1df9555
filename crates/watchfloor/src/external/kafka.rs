//! Kafka: brokers, and any property of librdkafka.

use std::collections::BTreeMap;
use std::path::PathBuf;

use backends::bus::kafka::KafkaOptions;

use super::{ExternalError, PlainText, is_remote, read};
use crate::cli::parse;

/// `WATCHFLOOR_KAFKA_PROPERTY_SASL_PASSWORD` is `sasl.password`.
const VARIABLE: &str = "WATCHFLOOR_KAFKA_PROPERTY_";

/// How to speak to Kafka.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct KafkaFlags {
    /// A property of librdkafka, such as security.protocol=ssl. Repeatable; beats environment and file.
    #[arg(long = "kafka-property", value_name = "NAME=VALUE", value_parser = parse::pair, help_heading = HEADING)]
    properties: Vec<(String, String)>,
    /// A file of such properties, one name=value a line; the place for passwords.
    #[arg(long = "kafka-properties", value_name = "FILE", env = "WATCHFLOOR_KAFKA_PROPERTIES", help_heading = HEADING)]
    file: Option<PathBuf>,
}

pub(super) const HEADING: &str = "Kafka and etcd";

impl KafkaFlags {
    /// `brokers` is `host:port[,host:port...]`. `variables` are the environment's.
    pub(crate) fn options(
        &self,
        brokers: &str,
        plain: PlainText,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<KafkaOptions, ExternalError> {
        let bootstrap: Vec<String> = brokers.split(',').map(|broker| broker.trim().to_owned()).collect();
        let mut options = KafkaOptions::new(bootstrap);
        if let Some(path) = &self.file {
            let text = read("--kafka-properties", path)?;
            options.properties = properties_of(&String::from_utf8_lossy(&text), &path.display().to_string())?;
        }
        for (name, value) in variables {
            if let Some(name) = name.strip_prefix(VARIABLE) {
                options.properties.insert(name.to_lowercase().replace('_', "."), value);
            }
        }
        options.properties.extend(self.properties.iter().cloned());
        if let Some(host) = options.bootstrap.iter().find(|broker| is_remote(broker))
            && !plain.insecure
            && !is_encrypted(&options.properties)
        {
            let remedy = "give --kafka-property security.protocol=ssl (or sasl_ssl)";
            return Err(ExternalError::Exposed { what: "Kafka", host: host.clone(), remedy });
        }
        Ok(options)
    }
}

fn is_encrypted(properties: &BTreeMap<String, String>) -> bool {
    let protocol = properties.get("security.protocol").map(|protocol| protocol.to_lowercase());
    matches!(protocol.as_deref(), Some("ssl" | "sasl_ssl"))
}

/// `name=value` lines; `#` begins a comment line. As Java's `.properties`, without its escapes.
fn properties_of(text: &str, path: &str) -> Result<BTreeMap<String, String>, ExternalError> {
    let mut properties = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=').filter(|(name, _)| !name.trim().is_empty()) else {
            // What stands before a sign that is missing may be a password: only its beginning is told.
            let text = line.chars().take(12).collect();
            return Err(ExternalError::Property { path: path.to_owned(), line: index + 1, text });
        };
        properties.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(
        flags: &KafkaFlags,
        brokers: &str,
        variables: &[(&str, &str)],
    ) -> Result<KafkaOptions, ExternalError> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        flags.options(brokers, PlainText::default(), variables)
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kafka.properties");
        std::fs::write(&path, "# ours\n\nsasl.password = a=b\nlinger.ms=1\nclient.id=file\n").unwrap();
        let flags =
            KafkaFlags { properties: vec![("client.id".to_owned(), "flag".to_owned())], file: Some(path) };
        let variables =
            [("WATCHFLOOR_KAFKA_PROPERTY_LINGER_MS", "2"), ("WATCHFLOOR_KAFKA_PROPERTY_CLIENT_ID", "env")];
        let options = options(&flags, "localhost:1, 127.0.0.1:2", &variables).unwrap();
        assert_eq!(options.bootstrap, ["localhost:1", "127.0.0.1:2"]);
        let property = |name: &str| options.properties.get(name).map(String::as_str);
        assert_eq!(property("client.id"), Some("flag"));
        assert_eq!(property("linger.ms"), Some("2"));
        assert_eq!(property("sasl.password"), Some("a=b"));
    }

    #[test]
    fn plain_text_to_another_machine_needs_the_operators_word() {
        let error = options(&KafkaFlags::default(), "localhost:1,kafka:9092", &[]).unwrap_err().to_string();
        assert!(error.contains("kafka:9092") && error.contains("--insecure"), "{error}");
        for protocol in ["SSL", "sasl_ssl"] {
            let variables = [("WATCHFLOOR_KAFKA_PROPERTY_SECURITY_PROTOCOL", protocol)];
            assert!(options(&KafkaFlags::default(), "kafka:9092", &variables).is_ok(), "{protocol}");
        }
        let variables = [("WATCHFLOOR_KAFKA_PROPERTY_SECURITY_PROTOCOL", "sasl_plaintext")];
        assert!(options(&KafkaFlags::default(), "kafka:9092", &variables).is_err());
        let plain = PlainText { insecure: true };
        assert!(KafkaFlags::default().options("kafka:9092", plain, std::iter::empty()).is_ok());
    }

    #[test]
    fn a_line_that_is_no_property_is_named_and_not_shown_whole() {
        let error = properties_of("a=1\nsasl.password hunter2\n", "p").unwrap_err().to_string();
        assert!(error.contains("p, line 2") && !error.contains("hunter2"), "{error}");
    }
}
