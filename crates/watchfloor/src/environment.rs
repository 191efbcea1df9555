//! The environment variables of the seed documents, read once. Set and not empty means meant.

/// What the environment says; flags beat it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    grpc_host: Option<String>,
    grpc_port: Option<String>,
    /// `KAFKA_BOOTSTRAP_SERVERS`.
    pub(crate) kafka: Option<String>,
    /// `ETCD_HOST` with `ETCD_PORT`.
    pub(crate) etcd: Option<String>,
}

impl Environment {
    pub(crate) fn read() -> Self {
        Self::from(|name| std::env::var(name).ok())
    }

    pub(crate) fn from(variable: impl Fn(&str) -> Option<String>) -> Self {
        let given = |name| variable(name).filter(|value: &String| !value.trim().is_empty());
        let etcd_port = given("ETCD_PORT").unwrap_or_else(|| "2379".to_owned());
        Self {
            grpc_host: given("GRPC_SERVER_HOST"),
            grpc_port: given("GRPC_SERVER_PORT"),
            kafka: given("KAFKA_BOOTSTRAP_SERVERS"),
            etcd: given("ETCD_HOST").map(|host| format!("{host}:{etcd_port}")),
        }
    }

    /// Where an agent finds its server when `--server` is not given.
    pub(crate) fn grpc_server(&self) -> String {
        let host = self.grpc_host.as_deref().unwrap_or("localhost");
        let port = self.grpc_port.as_deref().unwrap_or("50051");
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::from(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_seeds_defaults_hold_where_nothing_is_set() {
        let empty = environment(&[]);
        assert_eq!(empty.grpc_server(), "localhost:50051");
        assert_eq!((empty.kafka, empty.etcd), (None, None));
    }

    #[test]
    fn the_port_alone_selects_no_backend_and_an_empty_value_is_not_set() {
        assert_eq!(environment(&[("ETCD_PORT", "32379")]).etcd, None);
        assert_eq!(environment(&[("KAFKA_BOOTSTRAP_SERVERS", " ")]).kafka, None);
        let set = environment(&[("ETCD_HOST", "db"), ("GRPC_SERVER_HOST", "s"), ("GRPC_SERVER_PORT", "1")]);
        assert_eq!((set.etcd.as_deref(), set.grpc_server().as_str()), (Some("db:2379"), "s:1"));
    }
}
